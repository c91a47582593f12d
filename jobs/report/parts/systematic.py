"""Systematic errors: real images, without the object, that fail as generated ones do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from whylens.jobs.report.part import Limit, Part
from whylens.jobs.report.parts.alike import Alike
from whylens.jobs.report.tables import grouped, rows_of, value
from whylens.jobs.words import amount
from whylens.runs.lineage import Lineage


@dataclass(frozen=True)
class Error(Alike):
    """Real images without the object that fail alike, and generated ones that led to them."""

    p: float | None
    p_low: float | None
    p_high: float | None
    strata: int
    looks_like: str
    generated: tuple[bytes, ...]


@dataclass(frozen=True)
class Search:
    """What the search for one class looked at, and the errors that it found."""

    class_name: str
    queries: int
    gathered: int
    absent: int
    failed: int
    unsure: int
    rounds: int
    exhausted: bool
    errors: tuple[Error, ...]


def load_systematic(run: Lineage) -> tuple[Search, ...]:
    """The classes that were searched, those with the largest error first."""
    errors = grouped(rows_of(run, "systematic"), lambda row: row["class_index"])
    found = [
        value(
            Search,
            row,
            unsure=int(row.get("unsure") or 0),
            errors=tuple(value(Error, one) for one in errors.get(row["class_index"], ())),
        )
        for row in rows_of(run, "searched")
    ]
    return tuple(sorted(found, key=lambda one: -max((e.images for e in one.errors), default=0)))


def sentence(rows: Sequence[Search]) -> str:
    """What the search comes to."""
    errors = [error for row in rows for error in row.errors]
    images = sum(error.images for error in errors)
    classes = sum(bool(row.errors) for row in rows)
    said = f"{amount(len(rows), 'class', 'classes')} searched: "
    if not errors:
        return said + "no images that fail alike were found."
    return (
        f"{said}{amount(len(errors), 'systematic error')} of "
        f"{amount(classes, 'class', 'classes')}, in {amount(images, 'real image')}."
    )


SYSTEMATIC: Part[Search] = Part(
    name="systematic",
    title="Confirmed in real images",
    tables=("systematic", "searched"),
    read=load_systematic,
    place=35,
    empty=lambda data: "Nothing: start `whylens confirm` with this run as its source.",
    sentence=sentence,
    summary=lambda data: [sentence(data[SYSTEMATIC])],
    limits=(Limit("systematic", 24, "Show this many systematic errors."),),
    template="systematic.html.j2",
)
