"""An evaluation as one self-contained page: measures of each run, and images side by side."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from whylens.errors import UsageError
from whylens.jobs.guided import counterfactuals
from whylens.jobs.measuring.evaluation import EVALUATION
from whylens.jobs.measuring.pairs import PAIRS
from whylens.jobs.report.page import publish
from whylens.runs import Run, Table
from whylens.runs.lineage import Lineage

# Images that are shown side by side, and what of a run's table that takes.
SHOWN = 12
KEY = ("image_id", "target_name")
COLUMNS = (*KEY, "before", "after", "p_target_before", "p_target_after", "failed")


@dataclass(frozen=True)
class Measure:
    """A column: its title, how its numbers are written, and whether low or high is better."""

    name: str
    title: str
    form: str
    better: str  # "high", "low" or "neither"


MEASURES = (
    Measure("flip_rate", "Flipped", "{:.0%}", "high"),
    Measure("target_probability", "p of the target", "{:.2f}", "high"),
    Measure("change_inside", "Change inside the object", "{:.3f}", "neither"),
    Measure("change_outside", "Change outside", "{:.3f}", "low"),
    Measure("l1", "L1", "{:.3f}", "low"),
    Measure("l2", "L2", "{:.2f}", "low"),
    Measure("lpips", "LPIPS", "{:.3f}", "low"),
    Measure("feature_distance", "Distance in features", "{:.2f}", "low"),
    Measure("s3", "S3 (cosine of features)", "{:.2f}", "high"),
    Measure("cout", "COUT", "{:.2f}", "high"),
    Measure("frechet", "Frechet distance", "{:.2f}", "low"),
    Measure("sfid", "sFID (split halves)", "{:.2f}", "low"),
    Measure("fid", "FID (Inception)", "{:.2f}", "low"),
    Measure("inception_sfid", "sFID (Inception)", "{:.2f}", "low"),
    Measure("diversity", "Diversity of an image's", "{:.3f}", "high"),
    Measure("seconds", "Seconds an image", "{:.1f}", "low"),
    Measure("memory_mb", "Memory an image, MB", "{:.0f}", "low"),
)


# What is printed of a pair of classes, and in which order (`pairs`).
OF_PAIR = (
    Measure("fid", "FID", "{:.1f}", "low"),
    Measure("sfid", "sFID", "{:.1f}", "low"),
    Measure("s3", "S3", "{:.4f}", "high"),
    Measure("cout", "COUT", "{:.4f}", "high"),
    Measure("flip_rate", "FR", "{:.1%}", "high"),
)


@dataclass(frozen=True)
class Cell:
    """A number as it is written, and whether no run has a better one."""

    text: str
    best: bool


@dataclass(frozen=True)
class Pictures:
    """One image: what it was, its target, and what each run made of it (None where it failed)."""

    image_id: str
    target: str
    before: bytes
    after: tuple[Mapping[str, Any] | None, ...]


def write(run: Run, now: datetime | None = None) -> str:
    """Write report.html into an evaluation's folder; the page's path.

    Images are shown that all its runs changed to the same class; runs that are no longer there
    are missing from the pictures, not from the table.
    """
    rows = run.table(EVALUATION).read().to_pylist()
    missing, pictures = side_by_side([row["run"] for row in rows])
    return publish(
        run,
        "evaluation.html.j2",
        now,
        rows=rows,
        labels=labels(rows),
        measures=lines(rows),
        of_pair=[one.title for one in OF_PAIR],
        pairs=pairs(run, rows),
        pictures=pictures,
        missing=missing,
    )


def lines(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Cell]]]:
    """Each measure that a run has, and what each judge says: a title, and a cell a run."""
    found = [
        (one.title, cells([row.get(one.name) for row in rows], one.form, one.better))
        for one in MEASURES
        if any(row.get(one.name) is not None for row in rows)
    ]
    for judge in dict.fromkeys(one["judge"] for row in rows for one in row["attributes"] or ()):
        said: list[Mapping[str, Any]] = [
            next((one for one in row["attributes"] or () if one["judge"] == judge), {})
            for row in rows
        ]
        name = judge.rpartition(":")[2]
        # Of what was to stay a judge should say the same, of the object it should not.
        for title, side, better in (
            (f"{name} sees the target", "target", "high"),
            (f"{name} says as before", "kept", "neither"),
        ):
            shares = [one.get(side) for one in said]
            # A judge of other classes has no target to see.
            if any(share is not None for share in shares):
                found.append((title, cells(shares, "{:.0%}", better)))
    return found


@dataclass(frozen=True)
class Pair:
    """A block of the published tables: two classes, a line a run, and whose features count."""

    name: str
    features: str
    lines: tuple[tuple[str, int, tuple[Cell, ...]], ...]


def pairs(run: Run, rows: Sequence[Mapping[str, Any]]) -> list[Pair]:
    """The pairs of classes of which a run has images enough, those that most runs have first."""
    found = run.table(PAIRS).read().to_pylist() if run.table(PAIRS).units() else []
    names = dict(zip((row["run"] for row in rows), labels(rows), strict=True))
    blocks = []
    for pair in dict.fromkeys(one["pair"] for one in found):
        own = [one for one in found if one["pair"] == pair and one["run"] in names]
        by_measure = [cells([one[m.name] for one in own], m.form, m.better) for m in OF_PAIR]
        table = [
            (names[one["run"]], one["images"], line)
            for one, line in zip(own, zip(*by_measure, strict=True), strict=True)
        ]
        blocks.append(Pair(pair, own[0]["features"].rpartition(":")[2], tuple(table)))
    return sorted(blocks, key=lambda block: -len(block.lines))


def cells(values: Sequence[float | None], form: str, better: str) -> list[Cell]:
    """A column's cells; the best are those that read as the best one does."""
    texts = ["-" if value is None else form.format(value) for value in values]
    there = [value for value in values if value is not None]
    if len(there) < 2 or better == "neither":
        return [Cell(text, False) for text in texts]
    best = form.format(max(there) if better == "high" else min(there))
    return [
        Cell(text, value is not None and text == best)
        for text, value in zip(texts, values, strict=True)
    ]


def labels(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each run: its method, with the run's folder where methods repeat."""
    methods = [str(row["method"]).upper() for row in rows]
    return [
        method
        if methods.count(method) == 1
        else f"{method}, {str(row['run']).rstrip('/').rpartition('/')[2]}"
        for method, row in zip(methods, rows, strict=True)
    ]


def side_by_side(folders: Sequence[str]) -> tuple[list[str], list[Pictures]]:
    """The folders that hold no counterfactuals any more, and images that all others changed.

    Only parts that hold an image that is shown are read whole.
    """
    tables: dict[str, Table] = {}
    for folder in folders:
        with contextlib.suppress(UsageError):
            tables[folder] = Lineage(Run.open(folder)).table(counterfactuals.TABLE)
    parts = {
        folder: {
            key: part
            for part in table.units()
            for key in zip(*table.read_part(part, KEY).to_pydict().values(), strict=True)
        }
        for folder, table in tables.items()
    }
    first, *others = parts.values() if parts else [{}]
    common = [key for key in first if all(key in other for other in others)][:SHOWN]
    rows = {
        folder: {
            (row["image_id"], row["target_name"]): row
            for part in sorted({parts[folder][key] for key in common})
            for row in table.read_part(part, COLUMNS).to_pylist()
        }
        for folder, table in tables.items()
    }
    pictures = [
        Pictures(
            image_id=key[0],
            target=key[1],
            before=next(iter(rows.values()))[key]["before"],
            after=tuple(rows[folder][key] if folder in rows else None for folder in folders),
        )
        for key in common
    ]
    return [folder for folder in folders if folder not in tables], pictures
