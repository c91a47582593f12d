"""Classifiers: one type for every network with a linear head, loaded by name."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whylens.classifiers.classifier import Classifier, Head
    from whylens.classifiers.loading import load_classifier

__all__ = ["Classifier", "Head", "load_classifier"]

_HOMES = {"Classifier": "classifier", "Head": "classifier", "load_classifier": "loading"}


def __getattr__(name: str) -> Any:
    # Loaded on first use, so that importing the package does not import torch.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
