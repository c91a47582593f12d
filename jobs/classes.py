"""One class in two classifiers' lists of classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from whylens.errors import UsageError

if TYPE_CHECKING:
    from whylens.classifiers import Classes


def same_class(name: str, classifier: Classes) -> int | None:
    """The classifier's index of a class that another one names; None: it has no such class.

    The whole name is tried first, then each synonym.
    """
    for word in (name, *name.split(",")):
        try:
            return classifier.class_index(word.strip())
        except UsageError:
            continue
    return None
