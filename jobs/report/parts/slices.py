"""Slices: real mistakes that are alike, with what leads to them and what mends them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whylens.jobs.report.part import Limit, Part
from whylens.jobs.report.parts.alike import Alike
from whylens.jobs.report.tables import grouped, rows_of, value
from whylens.jobs.words import amount
from whylens.runs.lineage import Lineage


@dataclass(frozen=True)
class Mended:
    """A mistake, and the image changed until it is called its own class."""

    image_id: str
    before: bytes | None
    after: bytes | None
    p: float | None


@dataclass(frozen=True)
class Slice(Alike):
    """Mistakes that are alike; `leads` are components of the class and their shares of the gap."""

    labels: tuple[str, ...]
    leads: tuple[tuple[int, float], ...]
    mended: tuple[Mended, ...]


@dataclass(frozen=True)
class Called:
    """A class that images are wrongly called: how many are, of how many others, and slices."""

    class_name: str
    others: int
    mistaken: int
    in_slices: int
    slices: tuple[Slice, ...]


def load_slices(run: Lineage) -> tuple[Called, ...]:
    """The classes, those with most mistakes first."""
    found = grouped(rows_of(run, "slices"), lambda row: row["class_index"])
    rows = [
        value(Called, row, slices=tuple(_slice(one) for one in found.get(row["class_index"], ())))
        for row in rows_of(run, "mistakes")
    ]
    return tuple(sorted(rows, key=lambda row: -row.mistaken))


def _slice(row: Mapping[str, Any]) -> Slice:
    leads = zip(row.get("components") or (), row.get("shares") or (), strict=True)
    return value(Slice, row, leads=tuple(leads))


def sentence(rows: Sequence[Called]) -> str:
    """How many of the mistakes are alike."""
    count = sum(len(row.slices) for row in rows)
    mistaken, inside = (
        sum(getattr(row, what) for row in rows) for what in ("mistaken", "in_slices")
    )
    return f"{inside} of {amount(mistaken, 'mistake')} are in {amount(count, 'slice')}."


SLICES: Part[Called] = Part(
    name="slices",
    title="Slices of mistakes",
    tables=("slices", "mistakes"),
    read=load_slices,
    place=37,
    empty=lambda data: "Nothing: start `whylens errors` with this run as its source.",
    sentence=sentence,
    headline=lambda data: sentence(data[SLICES]),
    summary=lambda data: [sentence(data[SLICES])],
    limits=(Limit("slices", 24, "Show this many slices of mistakes."),),
    template="slices.html.j2",
)
