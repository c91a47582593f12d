"""Neural PCA: components of a class's features, what they respond to, which are suspicious."""

from whylens.neural_pca.components import ClassComponents, class_components, from_moments
from whylens.neural_pca.index import FeatureIndex
from whylens.neural_pca.moments import Moments
from whylens.neural_pca.ranking import Evidence, judge, typical_words
from whylens.neural_pca.refit import Refit, refit
from whylens.neural_pca.spufix import SpuFix, spufix, transfer
from whylens.neural_pca.sufficiency import Mined, mine

__all__ = [
    "ClassComponents",
    "Evidence",
    "FeatureIndex",
    "Mined",
    "Moments",
    "Refit",
    "SpuFix",
    "class_components",
    "from_moments",
    "judge",
    "mine",
    "refit",
    "spufix",
    "transfer",
    "typical_words",
]
