"""What shows a component, of any that a run judged: read at the moment that somebody looks at it.

A finding's pictures are in tables of their own. Of the other components the run keeps directions
and the ids of what was mined, so that exemplars and alphas are linear algebra on the stored
features of the class's images; heat maps and generated images are made for findings alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from whylens.errors import WhylensError
from whylens.jobs.images.embedded import (
    features_of,
    mined_collection,
    read_embedded,
    read_thumbnails,
    shown_classes,
)
from whylens.jobs.people.explanation import Exemplar as Shown
from whylens.jobs.report.parts.finding import Exemplar, Finding, Key
from whylens.runs.opened import OpenedRun
from whylens.runs.readable import UNIT

# Of the parts that hold a class's images, at most so many are read: some 16,000 images.
MOST_PARTS = 64
EXEMPLARS = 6
FEATURES = ("id", "label", "class_name", "caption", "features", "top5_classes", "collection")


@dataclass(frozen=True)
class ClassAlphas:
    """What a class's own images have of each of its components.

    ids [N], p [N] the probability of their label, alphas [N, L]; of `total` images that there are
    """

    ids: tuple[str, ...]
    p: tuple[float | None, ...]
    alphas: np.ndarray
    total: int

    def top(self, component: int, count: int = EXEMPLARS) -> list[tuple[str, float, float | None]]:
        """Id, alpha and p of the images in which a component is strongest."""
        column = self.alphas[:, component]
        order = np.argsort(-column, kind="stable")[:count]
        return [(self.ids[i], float(column[i]), self.p[i]) for i in order]


def class_alphas(
    run: OpenedRun, class_index: int, most_parts: int | None = MOST_PARTS
) -> ClassAlphas:
    """The alphas of a class's own images, of the first parts that hold some, or of all.

    Raises
    ------
    UsageError
        If the run has no images or no components of the class.
    """
    from whylens.jobs.findings.stored import read_components

    found = read_components(run, class_index)
    units, total = _parts_of_class(run, class_index, most_parts)
    ids: list[str] = []
    p: list[float | None] = []
    alphas = []
    for unit in units:
        part = run.table("images").read((*FEATURES, "p_label"), [unit])
        part = part.filter(pa.array(_shows(part, class_index)))
        seen = read_embedded(part, "main")
        ids += seen.ids
        p += part["p_label"].to_pylist() if "p_label" in part.column_names else [None] * len(part)
        alphas.append(found.alphas(seen.features))
    every = np.concatenate(alphas) if alphas else np.zeros((0, len(found.variances)))
    return ClassAlphas(tuple(ids), tuple(p), every, total)


def strongest(
    run: OpenedRun, alphas: ClassAlphas, components: np.ndarray, count: int = EXEMPLARS
) -> list[tuple[Shown, ...]]:
    """For each of some components, the class's images in which it is strongest."""
    best = [alphas.top(component, count) for component in components.tolist()]
    shown = thumbs(run, [image_id for top in best for image_id, _, _ in top], "main")
    return [tuple(Shown(i, alpha, shown[i]) for i, alpha, _ in top if i in shown) for top in best]


def _parts_of_class(
    run: OpenedRun, class_index: int, most: int | None = MOST_PARTS
) -> tuple[list[str], int]:
    """The first parts that hold images of a class, and how many such images there are in all."""
    listing = run.table("images").scan(("id", "label", "top5_classes", "collection"))
    rows = np.flatnonzero(_shows(listing, class_index))
    return listing[UNIT].take(rows).unique().to_pylist()[:most], len(rows)


def _shows(rows: pa.Table, class_index: int) -> np.ndarray:
    """Which rows [N] are of the main collection's images of a class."""
    main = pc.fill_null(pc.equal(rows["collection"], "main"), False)
    mine: np.ndarray = main.to_numpy() & (shown_classes(rows) == class_index)
    return mine


def thumbs(run: OpenedRun, ids: Sequence[str], collection: str) -> dict[str, bytes]:
    """Thumbnails by image id, of those that the collection has."""
    if not ids or not run.has("images"):
        return {}
    table = run.table("images")
    listing = table.scan(("id", "collection"))
    named = pc.is_in(listing["id"], value_set=pa.array(ids, pa.string()))
    rows = listing.filter(pc.and_(named, pc.equal(listing["collection"], collection)))
    wanted: dict[str, list[str]] = {}
    for unit, image_id in zip(rows[UNIT].to_pylist(), rows["id"].to_pylist(), strict=True):
        wanted.setdefault(unit, []).append(image_id)
    return _thumbnails(run, wanted)


def _thumbnails(run: OpenedRun, wanted: Mapping[str, Sequence[str]]) -> dict[str, bytes]:
    """Thumbnails by id, of ids by their parts; those of a damaged part are left out."""
    found: dict[str, bytes] = {}
    for unit, ids in wanted.items():
        with suppress(WhylensError):
            found |= read_thumbnails(run, {unit: ids})
    return found


def filled(
    run: OpenedRun, finding: Finding, alphas_of: Callable[[int], ClassAlphas | None]
) -> Finding:
    """A component with images of its class and mined ones, where no table has pictures of it.

    alphas_of: a class's alphas, for the exemplars
    """
    if finding.exemplars or finding.mined:
        return finding
    alphas = alphas_of(finding.class_index)
    top = [] if alphas is None or not alphas.ids else alphas.top(finding.component)
    mined = mined_images(run, finding.key)
    return replace(
        finding,
        exemplars=_pictured(run, top, "main"),
        mined=_pictured(run, mined[:EXEMPLARS], mined_collection(run)),
    )


def mined_images(run: OpenedRun, key: Key) -> list[tuple[str, float, float | None]]:
    """Id, alpha and p of the class of all images that were mined for a component."""
    if not run.has("components"):
        return []
    names = ("mined_ids", "mined_alphas", "mined_p")
    table = run.table("components").where({"class_index": key[0], "component": key[1]}, names)
    if table is None or set(names) - set(table.column_names):
        return []
    ids, alphas, p = (table[name].to_pylist()[0] or () for name in names)
    return list(zip(ids, alphas, p, strict=False))


@dataclass(frozen=True)
class MainImage:
    """An image of the main collection, as the run keeps it."""

    image_id: str
    thumb: bytes | None
    features: np.ndarray
    predicted: int
    p_label: float | None


def images_of_class(run: OpenedRun, class_index: int, count: int) -> list[MainImage]:
    """Some of a class's images: first those that are taken for another, the surest of it first."""
    table = run.table("images")
    units, _ = _parts_of_class(run, class_index)
    found: list[tuple[bool, float, str, str, int]] = []
    for unit in units:
        part = table.read(("id", "label", "top5_classes", "collection", "p_label"), [unit])
        for row in np.flatnonzero(_shows(part, class_index)).tolist():
            first = (part["top5_classes"][row].as_py() or [class_index])[0]
            p = part["p_label"][row].as_py() if "p_label" in part.column_names else None
            found.append((first == class_index, p or 0.0, part["id"][row].as_py(), unit, row))
    chosen = sorted(found)[:count]
    wanted: dict[str, list[str]] = {}
    for _, _, image_id, unit, _ in chosen:
        wanted.setdefault(unit, []).append(image_id)
    pictures = _thumbnails(run, wanted)
    made = []
    for _, p, image_id, unit, row in chosen:
        kept = table.at(unit, row, ("features", "top5_classes"))
        predicted = (kept["top5_classes"] or [class_index])[0]
        features = np.asarray(kept["features"], dtype=np.float64)
        made.append(MainImage(image_id, pictures.get(image_id), features, int(predicted), p))
    return made


def nearest_images(
    run: OpenedRun, phi: np.ndarray, count: int = 8
) -> tuple[list[tuple[str, float]], int, int]:
    """The main collection's images nearest to features [D], with their Euclidean distances.

    Also how many images were looked at, and how many there are.
    """
    table = run.table("images")
    collections = table.scan(("id", "collection"))["collection"].to_numpy()
    best: list[tuple[float, str]] = []
    seen = 0
    for unit in table.units()[:MOST_PARTS]:
        part = table.read(("id", "features", "collection"), [unit])
        part = part.filter(np.asarray(part["collection"].to_numpy() == "main"))
        if not len(part):
            continue
        far = np.linalg.norm(features_of(part) - phi.astype(np.float32), axis=1)
        ids = part["id"].to_pylist()
        near = np.argsort(far, kind="stable")[:count]
        best = sorted([*best, *((float(far[i]), ids[i]) for i in near)])[:count]
        seen += len(part)
    return [(name, far) for far, name in best], seen, int((collections == "main").sum())


def neighbours(run: OpenedRun, key: Key, count: int = 6) -> list[tuple[int, float]]:
    """The class's other components by how alike their directions are: component and cosine."""
    from whylens.jobs.findings.stored import read_components

    directions = read_components(run, key[0]).directions
    unit = directions / np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-12)
    cosine = unit @ unit[key[1]]
    order = [int(i) for i in np.argsort(-cosine, kind="stable") if i != key[1]]
    return [(i, float(cosine[i])) for i in order[:count]]


def _pictured(
    run: OpenedRun, images: Sequence[tuple[str, float, float | None]], collection: str
) -> tuple[Exemplar, ...]:
    pictures = thumbs(run, [image_id for image_id, _, _ in images], collection)
    return tuple(Exemplar(i, alpha, p, pictures.get(i), None) for i, alpha, p in images)
