"""Maximum inner product search over features: exact, or approximate by any faiss factory string.

alpha_l is an inner product with the features minus a constant, so "which images activate component
l most" is a search with the query d_l; a neuron's query is a unit vector. `queries` has those.

Approximate kinds hold the features minus their mean. That adds the same <q, mean> to every score of
a query, so it changes no order, and what is left to approximate is much smaller.
"""

from whylens.neural_pca.index.calibration import calibrated, recall_of
from whylens.neural_pca.index.feature_index import FeatureIndex
from whylens.neural_pca.index.files import load_index, pack_index, save_index, unpack_index
from whylens.neural_pca.index.searchable import BLOCK, Searchable, require_classifier
from whylens.neural_pca.index.sharded_index import ShardedIndex

__all__ = [
    "BLOCK",
    "FeatureIndex",
    "Searchable",
    "ShardedIndex",
    "calibrated",
    "load_index",
    "pack_index",
    "recall_of",
    "require_classifier",
    "save_index",
    "unpack_index",
]
