"""Wrong names, found before there is a run folder, which would hold the wrong spec from then on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whylens.classifiers import Classifier


def check_names(
    *,
    classifiers: Sequence[str | None] = (),
    collections: Sequence[str | None] = (),
    classes: Sequence[str] = (),
    sampler: str | None = None,
    words: bool = False,
) -> list[Classifier]:
    """Look for what a spec names; None is for what it leaves out. The classifiers, loaded.

    A sampler's networks, which are gigabytes, are left to the workers. `words`: the sampler is to
    tell where it looks for a word, which not every one can.

    Raises
    ------
    UsageError
        For an unknown classifier, collection or sampler, a sampler that can't tell what it is to,
        or a class that the first classifier lacks.
    """
    from whylens.classifiers import load_classifier
    from whylens.images import open_collection

    loaded = [load_classifier(name) for name in classifiers if name]
    for uri in filter(None, collections):
        open_collection(uri)
    for name in classes:
        loaded[0].class_index(name)
    if sampler is not None:
        from whylens.diffusion import check_sampler

        check_sampler(sampler, words=words)
    return loaded
