"""One type for every network with a linear head, loaded by name; repairs and heat maps."""

from typing import TYPE_CHECKING

from whylens.lazy import lazily

if TYPE_CHECKING:
    from whylens.classifiers.classifier import Classifier, Head
    from whylens.classifiers.loading import load_classifier
    from whylens.classifiers.modules import from_module

__all__ = ["Classifier", "Head", "from_module", "load_classifier"]

__getattr__ = lazily(
    __name__,
    {
        "Classifier": "classifier",
        "Head": "classifier",
        "from_module": "modules",
        "load_classifier": "loading",
    },
)
