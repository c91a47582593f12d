"""One type for every network with a linear head, loaded by name; repairs and heat maps."""

from typing import TYPE_CHECKING

from whylens.lazy import lazily

if TYPE_CHECKING:
    from whylens.classifiers.classifier import Classifier, Head
    from whylens.classifiers.description import Classes, Description
    from whylens.classifiers.loading import describe, load_classifier
    from whylens.classifiers.modules import from_module

__all__ = [
    "Classes",
    "Classifier",
    "Description",
    "Head",
    "describe",
    "from_module",
    "load_classifier",
]

__getattr__ = lazily(
    __name__,
    {
        "Classifier": "classifier",
        "Classes": "description",
        "Description": "description",
        "Head": "classifier",
        "describe": "loading",
        "from_module": "modules",
        "load_classifier": "loading",
    },
)
