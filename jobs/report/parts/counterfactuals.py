"""Counterfactuals: real images, changed until the classifier says another class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from whylens.jobs.report.classes import load_classes
from whylens.jobs.report.optimisation import Optimisation, optimisation_of, others
from whylens.jobs.report.part import Limit, Pair, Part, RunData, Use
from whylens.jobs.report.tables import number, rows_of, value
from whylens.jobs.words import amount, percent, plain_name
from whylens.runs.lineage import Lineage


@dataclass(frozen=True)
class Counterfactual:
    """A real image, and what had to change for the classifier to say the target class."""

    image_id: str
    source: str
    target: str
    before: bytes | None
    after: bytes | None
    difference: bytes | None
    p_source_before: float | None
    p_source_after: float | None
    p_target_before: float | None
    p_target_after: float | None
    l1: float | None
    l2: float | None
    flipped: bool
    failed: str | None
    losses: tuple[float, ...]
    against: Mapping[str, float]
    optimisation: Optimisation = field(default_factory=Optimisation)


def load_counterfactuals(run: Lineage) -> tuple[Counterfactual, ...]:
    """The counterfactuals; classes by name where the run knows it, else by number."""
    rows = rows_of(run, "counterfactuals")
    class_names: dict[int, str] = {}
    if any(not (row.get("source_name") and row.get("target_name")) for row in rows):
        class_names = {one.class_index: one.class_name for one in load_classes(run)[0]}
    return tuple(
        value(
            Counterfactual,
            row,
            source=_class_name(row, "source", class_names),
            target=_class_name(row, "target", class_names),
            against={
                name.removeprefix("against_"): seen
                for name, column in row.items()
                if name.startswith("against_") and (seen := number(column)) is not None
            },
            optimisation=optimisation_of(row),
        )
        for row in rows
    )


def _class_name(row: Mapping[str, Any], side: str, class_names: Mapping[int, str]) -> str:
    name = row.get(f"{side}_name")
    index = row.get(f"{side}_class")
    return str(name or (class_names.get(index) if index is not None else None) or index)


def sentence(rows: Sequence[Counterfactual]) -> str:
    """How many images could be turned, and whether the second classifier agrees."""
    flipped = [row for row in rows if row.flipped]
    text = (
        f"In {len(flipped)} of {amount(len(rows), 'image')} a small change made the classifier "
        "say the target class"
    )
    seconds = [
        (row.against["target_after"], row.against["source_after"])
        for row in flipped
        if {"target_after", "source_after"} <= set(row.against)
    ]
    if seconds:
        agreed = sum(target > source for target, source in seconds)
        text += f"; the second classifier sees the change too in {agreed} of {len(seconds)}"
    return text + "."


def _pairs(rows: Sequence[Counterfactual]) -> Iterable[Pair]:
    for one in rows:
        if one.flipped and one.before and one.after:
            source, target = plain_name(one.source), plain_name(one.target)
            change = f"{percent(one.p_target_before)} → {percent(one.p_target_after)}"
            yield Pair(f"{source} → {target}", one.before, one.after, f"p {change}")


def _summary(data: RunData) -> list[str]:
    rows = data[COUNTERFACTUALS]
    return [sentence(rows)] if any(row.after for row in rows) else []


COUNTERFACTUALS = Part(
    name="counterfactuals",
    title="Counterfactuals",
    tables=("counterfactuals",),
    read=load_counterfactuals,
    place=20,
    always=True,
    empty=lambda data: "No counterfactuals: this stage did not run.",
    sentence=sentence,
    summary=_summary,
    limits=(Limit("counterfactuals", 48, "Show this many counterfactuals."),),
    template="counterfactuals.html.j2",
    words={"others": others},
    use=Use("Counterfactuals", "a real image, changed until\nthe decision flips", _pairs, place=10),
)
