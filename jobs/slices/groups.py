"""The groups job: accuracy by class and attribute, and what each repair of the head changes.

Repairs stand side by side: SpuFix by formula and by refit, which know what a run found, and deep
feature reweighting, which is told each image's group. Each is measured on images that none was
fitted to, and on every shortcut that is known in the run, not only on those it was made for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
from pydantic import Field

from whylens.errors import UsageError
from whylens.images import Rejected
from whylens.jobs.columns import columns
from whylens.jobs.findings.stored import COMPONENTS, components_of
from whylens.jobs.findings.verdicts import judged_rows
from whylens.jobs.images.embedded import COLUMNS, IMAGES, mined_collection, read_embedded
from whylens.jobs.images.rejected import GONE, REJECTED, write_rejected
from whylens.jobs.people.repair import Seen, spurious_of
from whylens.jobs.registry import Job
from whylens.jobs.slices.shown import collection_of
from whylens.jobs.spec import JobSpec
from whylens.neural_pca import refit, spufix
from whylens.neural_pca.dfr import reweighted, worst_group
from whylens.runs import Run
from whylens.runs.lineage import Lineage
from whylens.settings import Settings

GROUPS, REPAIRS, SHORTCUTS, VALUES = "groups", "repairs", "shortcuts", "values"
NOTHING, FORMULA, REFIT, DFR = "no repair", "SpuFix, formula", "SpuFix, refit", "DFR"
# What each has to know beside the training images and their labels.
KNOWS = {
    NOTHING: "nothing",
    FORMULA: "which components are spurious",
    REFIT: "which components are spurious, images mined for them, and labels there",
    DFR: "the group of every image",
}
SCHEMAS = {
    GROUPS: pa.schema(
        [*columns(pa.string(), "repair", "attribute", "class_name", "value"),
         *columns(pa.int32(), "class_index", "images"), ("accuracy", pa.float64())]
    ),
    REPAIRS: pa.schema(
        [*columns(pa.string(), "repair", "attribute", "knows"), ("images", pa.int32()),
         *columns(pa.float64(), "accuracy", "worst_accuracy", "gap"),
         *columns(pa.string(), "worst_class", "worst_value")]
    ),
    SHORTCUTS: pa.schema(
        [("repair", pa.string()), ("class_name", pa.string()), ("component", pa.int32()),
         ("words", pa.list_(pa.string())), ("images", pa.int32()),
         *columns(pa.float64(), "called", "own_accuracy")]
    ),
    # What an attribute does by itself; and the class that it draws images of others to most.
    VALUES: pa.schema(
        [*columns(pa.string(), "repair", "attribute", "value"), ("images", pa.int32()),
         ("accuracy", pa.float64()), ("drawn_to", pa.string()),
         *columns(pa.float64(), "drawn", "drawn_elsewhere")]
    ),
}  # fmt: skip
Logits = Callable[[np.ndarray], np.ndarray]


class GroupSettings(Settings):
    """Which groups, of which images."""

    collection: str = Field("main", pattern="^(main|second)$", description="main, or second.")
    attributes: list[str] = Field([], description="Attributes by name; empty: all.")
    least: int = Field(10, ge=2, description="Smaller groups are left out.")
    budget: float = Field(
        0.015, ge=0, le=1, description="Refit: accuracy on training images that may be lost."
    )


class GroupsSpec(JobSpec):
    """Accuracy by group, before and after repairs."""

    source: str = Field(
        description="Run folder of an embed job, or of one that builds on it; where components "
        "were judged, repairs are compared."
    )
    groups: GroupSettings = Field(GroupSettings(), description="Which groups.")


@dataclass(frozen=True)
class Images:
    """Labelled images of a run: features [N, D], labels [N], attributes by name [N], and which
    images [N] repairs may be fitted to; they are measured on the others."""

    features: np.ndarray
    labels: np.ndarray
    attributes: Mapping[str, np.ndarray]
    fitted: np.ndarray


def images_of(run: Run, lineage: Lineage, settings: GroupSettings) -> Images:
    """The labelled images of a run's collection; those that it no longer lists are noted.

    Raises
    ------
    UsageError
        If the collection has no attributes, not one that is asked for, or no labels.
    """
    collection = collection_of(lineage, settings.collection)
    uri, known = collection.uri, collection.attributes()
    wanted = settings.attributes or list(known)
    if not known or not set(wanted) <= set(known):
        lacking = sorted(set(wanted) - set(known))
        raise UsageError(
            f"{uri} has no attribute {lacking[0]!r}; there are: {', '.join(known)}"
            if known
            else f"{uri} has no attributes: name a data set that has, such as waterbirds:FOLDER"
        )
    seen = read_embedded(lineage.table(IMAGES).read(COLUMNS), settings.collection)
    place = {name: row for row, name in enumerate(collection.records.ids().to_pylist())}
    there = np.asarray([name in place for name in seen.ids], bool)
    gone = [Rejected(seen.ids[row], seen.ids[row], GONE) for row in np.flatnonzero(~there)]
    write_rejected(run, GROUPS, gone, settings.collection)
    labelled = np.flatnonzero(there & (seen.labels >= 0))
    if len(labelled) == 0:
        raise UsageError(f"no image of {uri} has a label: groups are of a class and an attribute")
    rows = [place[seen.ids[row]] for row in labelled]
    return Images(
        seen.features[labelled].astype(np.float64),
        seen.labels[labelled],
        {name: np.asarray([known[name][row] for row in rows]) for name in wanted},
        for_repairs([seen.ids[row] for row in labelled]),
    )


def for_repairs(ids: Sequence[str]) -> np.ndarray:
    """Which images [N] repairs may be fitted to, by their ids: half of them."""
    return np.asarray([crc32(one.encode()) % 2 == 0 for one in ids], bool)


def groups_of(labels: np.ndarray, values: np.ndarray, least: int) -> np.ndarray:
    """The group of each image, [N], numbered by class and value; -1 in groups that are small."""
    _, of_value = np.unique(values, return_inverse=True)
    groups = labels * (int(of_value.max(initial=0)) + 1) + of_value
    _, place, counts = np.unique(groups, return_inverse=True, return_counts=True)
    return np.where(counts[place] >= least, groups, -1)


def groups(run: Run, lineage: Lineage, settings: GroupSettings) -> None:
    """Measure, and write the four tables."""
    from whylens.classifiers import load_classifier

    classifier = load_classifier(str(lineage.setting("classifier")))
    names, head = classifier.class_names, classifier.head.arrays()
    images = images_of(run, lineage, settings)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in SCHEMAS}
    found, seen = _found(run, lineage)
    fixes = {NOTHING: _linear(*head)}
    if seen is not None:
        fixes |= _spufixes(lineage, settings, found, seen, classifier)
    for attribute, values in images.attributes.items():
        of = groups_of(images.labels, values, settings.least)
        tested, fitted = (of >= 0) & ~images.fitted, (of >= 0) & images.fitted
        if not tested.any():
            run.warn(f"{attribute}: no group has {settings.least} images to measure")
            continue
        compared = dict(fixes)
        try:
            fix = reweighted(images.features[fitted], images.labels[fitted], of[fitted], len(names))
            compared[DFR] = _linear(fix.weight, fix.bias)
        except UsageError as error:
            run.warn(f"DFR by {attribute}: {error}")
        for repair, logits in compared.items():
            said = logits(images.features[tested]).argmax(1)
            right = said == images.labels[tested]
            more = list(_by_group(right, of[tested], images.labels[tested], values[tested], names))
            key = {"repair": repair, "attribute": attribute}
            rows[GROUPS] += [{**key, **row} for row in more]
            rows[VALUES] += [
                {**key, **row}
                for row in by_value(said, images.labels[tested], values[tested], names)
            ]
            worst = min(more, key=lambda row: row["accuracy"])
            rows[REPAIRS].append(
                {
                    **key,
                    "knows": KNOWS[repair],
                    "images": int(tested.sum()),
                    "accuracy": float(right.mean()),
                    "worst_accuracy": worst_group(right, of[tested]),
                    "gap": float(right.mean()) - worst["accuracy"],
                    "worst_class": worst["class_name"],
                    "worst_value": worst["value"],
                }
            )
            if seen is not None and (repair == DFR or attribute == next(iter(images.attributes))):
                named = f"{DFR} by {attribute}" if repair == DFR else repair
                rows[SHORTCUTS] += _shortcuts(named, logits, found, seen, names)
    for table, schema in SCHEMAS.items():
        run.table(table).write("all", pa.Table.from_pylist(rows[table], schema=schema))


def _linear(weight: np.ndarray, bias: np.ndarray) -> Logits:
    return lambda features: features @ weight.T + bias


def _found(run: Run, lineage: Lineage) -> tuple[list[dict[str, Any]], Seen | None]:
    """Rows of spurious components with what was mined for them; None where none is known."""
    if not lineage.has(COMPONENTS):
        run.warn("no components were judged: SpuFix is left out. Name such a run as --source")
        return [], None
    rows = judged_rows(lineage, ["mined_ids", "words", "class_name"])
    try:
        spurious = spurious_of(lineage.runs[0].folder, rows)
    except UsageError as error:
        run.warn(f"SpuFix is left out: {error}")
        return [], None
    found = [row for row in rows if row["component"] in spurious.get(row["class_index"], ())]
    return found, Seen(lineage, mined_collection(lineage))


def _spufixes(
    lineage: Lineage,
    settings: GroupSettings,
    found: Sequence[Mapping[str, Any]],
    seen: Seen,
    classifier: Any,
) -> dict[str, Logits]:
    """SpuFix by formula and by refit; refit sees no image that repairs are measured on."""
    weight, bias = classifier.head.arrays()
    spurious: dict[int, list[int]] = {}
    for row in found:
        spurious.setdefault(row["class_index"], []).append(row["component"])
    plain = spufix([components_of(lineage, k, classifier) for k in spurious], spurious)
    shown, shown_for = seen.shown(*seen.mined(found, spurious, lineage.runs[0].folder))

    def may(ids: Sequence[str], tag: str) -> np.ndarray:
        return for_repairs(ids) if tag == settings.collection else np.ones(len(ids), bool)

    kept = may(seen.pool.ids, mined_collection(lineage))[shown]
    own = may(seen.main.ids, "main") & (seen.main.labels >= 0)
    fitted = refit(
        weight, bias, seen.main.features[own], seen.main.labels[own],
        seen.pool.features[shown[kept]], seen.pool.labels[shown[kept]], shown_for[kept],
        budget=settings.budget,
    )  # fmt: skip
    return {
        FORMULA: lambda features: plain.fix(features, features @ weight.T + bias),
        REFIT: _linear(fitted.weight, fitted.bias),
    }


def _by_group(
    right: np.ndarray,
    groups: np.ndarray,
    labels: np.ndarray,
    values: np.ndarray,
    names: Sequence[str],
) -> Iterator[dict[str, Any]]:
    for group in np.unique(groups):
        inside = groups == group
        first = int(inside.argmax())
        yield {
            "class_index": int(labels[first]),
            "class_name": names[int(labels[first])],
            "value": str(values[first]),
            "images": int(inside.sum()),
            "accuracy": float(right[inside].mean()),
        }


def by_value(
    said: np.ndarray, labels: np.ndarray, values: np.ndarray, names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Accuracy by an attribute's value alone, and the class that images of it are drawn to.

    That is the class k whose part of the images not of class k, called k all the same, is higher
    than among the other values' images by most: a watermark's carton. said, labels and values are
    [N]; an attribute of one value draws to nothing.
    """
    for value in np.unique(values):
        inside = values == value
        drawn, elsewhere = (_called(said[of], labels[of], len(names)) for of in (inside, ~inside))
        k = int((drawn - elsewhere).argmax())
        alone = bool(inside.all()) or drawn[k] <= elsewhere[k]
        yield {
            "value": str(value),
            "images": int(inside.sum()),
            "accuracy": float((said == labels)[inside].mean()),
            "drawn_to": None if alone else names[k],
            "drawn": None if alone else float(drawn[k]),
            "drawn_elsewhere": None if alone else float(elsewhere[k]),
        }


def _called(said: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """The part of the images not of each class that is called it, [K]."""
    wrong = np.bincount(said[said != labels], minlength=classes)
    others = len(labels) - np.bincount(labels, minlength=classes)
    part: np.ndarray = wrong / np.maximum(others, 1)
    return part


def _shortcuts(
    repair: str,
    logits: Logits,
    found: Sequence[Mapping[str, Any]],
    seen: Seen,
    names: Sequence[str],
) -> Iterator[dict[str, Any]]:
    """How many of the images mined for each spurious component are called its class, and how many
    of the class's own are."""
    pool, main = logits(seen.pool.features).argmax(1), logits(seen.main.features).argmax(1)
    place = {name: row for row, name in enumerate(seen.pool.ids)}
    for row in found:
        k = row["class_index"]
        mined = [place[one] for one in row["mined_ids"] if one in place]
        own = seen.main.labels == k
        yield {
            "repair": repair,
            "class_name": names[k],
            "component": row["component"],
            "words": row["words"] or [],
            "images": len(mined),
            "called": float((pool[mined] == k).mean()) if mined else None,
            "own_accuracy": float((main[own] == k).mean()) if own.any() else None,
        }


def run(spec: GroupsSpec) -> Run:
    """Measure a run's groups."""
    with JOB.working(spec) as run, run.stage(GROUPS):
        groups(run, Lineage(run), spec.groups)
    return run


JOB = Job(
    name="groups",
    help="Accuracy by group, before and after repairs.",
    spec=GroupsSpec,
    run=run,
    tables=(REJECTED, GROUPS, SHORTCUTS, VALUES, REPAIRS),
    show="whylens.jobs.slices.terminal:show_repairs",
    part="whylens.jobs.report.parts.groups:GROUPS",
)
