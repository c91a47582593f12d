"""Neural PCA: components of a class's features, what they respond to, which are suspicious."""

from whylens.neural_pca.census import Census
from whylens.neural_pca.components import ClassComponents, class_components, from_moments
from whylens.neural_pca.index import FeatureIndex, ShardedIndex
from whylens.neural_pca.judged import Judged, judge_classes
from whylens.neural_pca.moments import Moments
from whylens.neural_pca.queries import Found, component_exemplars, neighbours, neuron_exemplars
from whylens.neural_pca.ranking import (
    Asked,
    Evidence,
    Reference,
    judge,
    typical_words,
    with_verdicts,
)
from whylens.neural_pca.refit import Refit, refit, with_own_images
from whylens.neural_pca.spufix import SpuFix, spufix, transfer
from whylens.neural_pca.sufficiency import Mined, Miner, mine

__all__ = [
    "Asked",
    "Census",
    "ClassComponents",
    "Evidence",
    "FeatureIndex",
    "Found",
    "Judged",
    "Mined",
    "Miner",
    "Moments",
    "Reference",
    "Refit",
    "ShardedIndex",
    "SpuFix",
    "class_components",
    "component_exemplars",
    "from_moments",
    "judge",
    "judge_classes",
    "mine",
    "neighbours",
    "neuron_exemplars",
    "refit",
    "spufix",
    "transfer",
    "typical_words",
    "with_own_images",
    "with_verdicts",
]
