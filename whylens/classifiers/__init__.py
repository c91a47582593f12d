"""One type for every network with a linear head, loaded by name; repairs and heat maps."""

from typing import TYPE_CHECKING

from whylens.lazy import lazily

if TYPE_CHECKING:
    from whylens.classifiers.classifier import Classifier, Head
    from whylens.classifiers.loading import load_classifier

__all__ = ["Classifier", "Head", "load_classifier"]

__getattr__ = lazily(
    __name__,
    {"Classifier": "classifier", "Head": "classifier", "load_classifier": "loading"},
)
