"""Who is scored on what: classifiers with their columns, images with the class that counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whylens.errors import UsageError
from whylens.images import ImageCollection, match_classes
from whylens.images.spurious import SpuriousCollection
from whylens.jobs.score_tables import SIDES


@dataclass(frozen=True)
class Contender:
    """A classifier of the run: where its logits of the run's classes [K] are, -1 for none."""

    name: str
    columns: NDArray[np.int64]
    base: str | None


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
    """The classes that the run is about, and each classifier's columns; loads them one by one."""
    from whylens.classifiers import load_classifier
    from whylens.classifiers.label_sets import head_columns, label_space

    space: tuple[str, ...] = ()
    contenders = []
    for name in names:
        classifier = load_classifier(name)
        space = space or label_space(classifier.class_names)
        columns = head_columns(space, classifier.class_names)
        contenders.append(Contender(name, columns, getattr(classifier, "base", None)))
    return space, contenders


def make_sides(
    collection: ImageCollection, spurious: SpuriousCollection, space: Sequence[str]
) -> tuple[list[Side], list[str]]:
    """Both sides' images with the index of their class, and what the reader should know."""
    remarks = []
    names = {r.class_name for r in collection.records if r.class_name is not None}
    known = match_classes(names, space)
    rows = [i for i, r in enumerate(collection.records) if (r.class_name or "") in known]
    left_out = len(collection) - len(rows)
    if left_out:
        unknown = sorted(names - set(known))[:5]
        hint = f" ({', '.join(unknown)}, ...)" if unknown else ""
        remarks.append(
            f"{left_out} of {len(collection)} validation images have no class that the first "
            f"classifier knows{hint}: they are left out"
        )
    shown = [known[str(collection.records[i].class_name)] for i in rows]
    wanted = _indices(spurious, space)
    without = sorted(set(wanted) - set(shown))
    if len(without) == len(set(wanted)):
        raise UsageError(
            f"no validation image of {collection.uri} shows one of the {len(without)} classes "
            f"that the spurious images of {spurious.images.uri} are for: nothing can be scored"
        )
    if without:
        remarks.append(
            f"{len(without)} classes have spurious images but no validation images, and no score: "
            + ", ".join(space[k] for k in without[:5])
        )
    kept = [i for i, k in enumerate(wanted) if k not in without]
    return [
        Side(SIDES[0], collection, tuple(rows), tuple(shown), tuple(None for _ in rows)),
        Side(
            SIDES[1],
            spurious.images,
            tuple(kept),
            tuple(wanted[i] for i in kept),
            tuple(spurious.components[i] for i in kept),
        ),
    ], remarks


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


def lacking(
    contenders: Sequence[Contender], sides: Sequence[Side], space: Sequence[str]
) -> list[str]:
    remarks = []
    scored = sorted(set(sides[1].classes))
    for contender in contenders:
        missing = [space[k] for k in scored if contender.columns[k] < 0]
        if len(missing) == len(scored):
            raise UsageError(
                f"{contender.name} has none of the {len(scored)} classes that the spurious images "
                "are for: score it in a run of its own"
            )
        if missing:
            remarks.append(
                f"{contender.name} lacks {', '.join(missing[:5])}"
                + (f" and {len(missing) - 5} more classes" if len(missing) > 5 else "")
                + f": its score is the mean over the other {len(scored) - len(missing)}"
            )
    return remarks
