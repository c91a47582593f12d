"""Wrong names, found before there is a run folder, which would hold the wrong spec from then on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whylens.classifiers import Description


def check_names(
    *,
    classifiers: Sequence[str | None] = (),
    collections: Sequence[str | None] = (),
    classes: Sequence[str] = (),
    sampler: str | None = None,
    words: bool = False,
) -> list[Description]:
    """Look for what a spec names; None is for what it leaves out. The classifiers, described.

    Networks are left to the workers: no machine but theirs may hold them, or have their weights.
    `words`: the sampler is to tell where it looks for a word, which not every one can.

    Raises
    ------
    UsageError
        For an unknown classifier, collection or sampler, a sampler that can't tell what it is to,
        or a class that the first classifier lacks.
    """
    from whylens.classifiers import describe
    from whylens.images import open_collection

    described = [describe(name) for name in classifiers if name]
    for uri in filter(None, collections):
        open_collection(uri)
    for name in classes:
        described[0].class_index(name)
    if sampler is not None:
        from whylens.diffusion import check_sampler

        check_sampler(sampler, words=words)
    return described
