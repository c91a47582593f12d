"""Who is scored on what: classifiers with their columns, images with the class that counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whylens.errors import UsageError
from whylens.images import ImageCollection, match_classes
from whylens.images.spurious import SpuriousCollection

SIDES = ("validation", "spurious")


@dataclass(frozen=True)
class Contender:
    """A classifier of the run: where its logits of the run's classes [K] are, -1 for none.

    `base` is the classifier that it repairs; `remark` what the reader should know of its p.
    """

    name: str
    columns: NDArray[np.int64]
    base: str | None
    remark: str = ""


@dataclass(frozen=True)
class Side:
    """The images of one side: rows of a collection, and the class [N] whose p_k counts."""

    name: str
    collection: ImageCollection
    rows: tuple[int, ...]
    classes: tuple[int, ...]
    components: tuple[int | None, ...]

    def __len__(self) -> int:
        return len(self.rows)


def contend(names: Sequence[str]) -> tuple[tuple[str, ...], list[Contender]]:
    """The classes that the run is about, and each classifier's columns."""
    from whylens.classifiers import describe
    from whylens.classifiers.label_sets import head_columns, label_space

    space: tuple[str, ...] = ()
    contenders = []
    for name in names:
        classifier = describe(name)
        space = space or label_space(classifier.class_names)
        columns = head_columns(space, classifier.class_names)
        contenders.append(Contender(name, columns, classifier.base, classifier.activation.remark))
    return space, contenders


def make_sides(
    collection: ImageCollection,
    spurious: SpuriousCollection,
    space: Sequence[str],
    contenders: Sequence[Contender],
) -> tuple[list[Side], list[str]]:
    """Both sides' images with the index of their class, and what the reader should know.

    All classifiers are scored on the same images: those of a class that one lacks are left out.

    Raises
    ------
    UsageError
        For spurious images of an unknown class, or if there is no class that has images on both
        sides and that all classifiers have.
    """
    names = collection.records.class_names()
    known = match_classes(names, space)
    shown = [known.get(r.class_name or "", -1) for r in collection.records]
    wanted = _indices(spurious, space)
    both = set(shown) & set(wanted)
    if not both:
        raise UsageError(
            f"no validation image of {collection.uri} shows one of the {len(set(wanted))} classes "
            f"that the spurious images of {spurious.images.uri} are for: nothing can be scored"
        )
    remarks = [f"{c.name} {c.remark}" for c in contenders if c.remark]
    if unlabelled := shown.count(-1):
        unknown = sorted(names - set(known))
        listed = f" ({_few(unknown)})" if unknown else ""
        remarks.append(
            f"{unlabelled} of {len(shown)} validation images have no class that "
            f"{contenders[0].name} knows{listed}: they are left out"
        )
    if without := sorted(set(wanted) - both):
        remarks.append(
            f"{len(without)} of {len(set(wanted))} classes with spurious images have no validation "
            f"images, and no score: {_few([space[k] for k in without])}"
        )
    lacked: set[int] = set()
    for contender in contenders:
        lacks = {k for k in set(shown) - {-1} if contender.columns[k] < 0}
        lacked |= lacks
        if lacks:
            remarks.append(
                f"{contender.name} lacks {len(lacks)} of the {len(set(shown) - {-1})} classes "
                f"({_few([space[k] for k in sorted(lacks)])}): their images are left out for all"
            )
    scored = both - lacked
    if not scored:
        raise UsageError(
            f"there is no class that has spurious images and that all of "
            f"{', '.join(c.name for c in contenders)} have: score them in runs of their own"
        )
    inside = [i for i, k in enumerate(shown) if k >= 0 and k not in lacked]
    outside = [i for i, k in enumerate(wanted) if k in scored]
    return [
        _side(SIDES[0], collection, inside, shown, [None] * len(shown)),
        _side(SIDES[1], spurious.images, outside, wanted, spurious.components),
    ], remarks


def _side(
    name: str,
    collection: ImageCollection,
    rows: Sequence[int],
    classes: Sequence[int],
    components: Sequence[int | None],
) -> Side:
    return Side(
        name,
        collection,
        tuple(rows),
        tuple(classes[i] for i in rows),
        tuple(components[i] for i in rows),
    )


def _few(names: Sequence[str]) -> str:
    more = f", and {len(names) - 5} more" if len(names) > 5 else ""
    return "; ".join(names[:5]) + more


def _indices(spurious: SpuriousCollection, space: Sequence[str]) -> list[int]:
    names = {c for c in spurious.classes if isinstance(c, str)}
    known: dict[int | str, int] = {k: k for k in range(len(space))}
    known.update(match_classes(names, space).items())
    unknown = sorted({str(c) for c in spurious.classes if c not in known})
    if unknown:
        raise UsageError(
            f"{spurious.images.uri}: images are spurious for classes that the first classifier, "
            f"of {len(space)} classes, does not have: {', '.join(unknown)}"
        )
    return [known[c] for c in spurious.classes]
