"""Disagreements: images that one classifier calls a class and another does not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from whylens.jobs.report.optimisation import Optimisation, optimisation_of
from whylens.jobs.report.part import Limit, Pair, Part, Use
from whylens.jobs.report.tables import rows_of, value
from whylens.jobs.words import amount, percent, plain_name
from whylens.runs.lineage import Lineage


@dataclass(frozen=True)
class Disagreement:
    """An image made so that classifier A says the class and classifier B does not.

    `a` and `b` are their names; None in a run of two only.
    """

    class_name: str
    prompt: str
    seed: int | None
    image: bytes | None
    start_image: bytes | None
    p_a: float | None
    p_b: float | None
    p_a_start: float | None
    p_b_start: float | None
    losses: tuple[float, ...]
    failed: str | None
    a: str | None = None
    b: str | None = None
    optimisation: Optimisation = field(default_factory=Optimisation)


def load_disagreements(run: Lineage) -> tuple[Disagreement, ...]:
    """The images on which the two classifiers disagree."""
    return tuple(
        value(
            Disagreement,
            row,
            class_name=str(row.get("class_name") or row.get("class_index")),
            a=row.get("classifier_a"),
            b=row.get("classifier_b"),
            optimisation=optimisation_of(row),
        )
        for row in rows_of(run, "disagreements")
    )


def sentence(rows: Sequence[Disagreement]) -> str:
    """How far the two classifiers could be pulled apart."""
    gaps = [row.p_a - row.p_b for row in rows if row.p_a is not None and row.p_b is not None]
    if not gaps:
        return ""
    starts = [
        row.p_a_start - row.p_b_start
        for row in rows
        if row.p_a_start is not None and row.p_b_start is not None
    ]
    gap = 100 * sum(gaps) / len(gaps)
    start = f" (plain images: {100 * sum(starts) / len(starts):.0f} points)" if starts else ""
    return (
        f"In {amount(len(gaps), 'generated image')} the two classifiers' probabilities differ by "
        f"{gap:.0f} percentage points on average{start}."
    )


def _pairs(rows: Sequence[Disagreement]) -> Iterable[Pair]:
    for one in sorted(rows, key=lambda one: (one.p_b or 0.0) - (one.p_a or 0.0)):
        if one.start_image and one.image and (one.p_a or 0.0) > (one.p_b or 0.0):
            told = f"p {percent(one.p_a)}, other {percent(one.p_b)}"
            yield Pair(plain_name(one.class_name), one.start_image, one.image, told)


DISAGREEMENTS = Part(
    name="disagreements",
    title="Disagreements",
    tables=("disagreements",),
    read=load_disagreements,
    place=30,
    always=True,
    empty=lambda data: (
        "No disagreements: this stage did not run, or no second classifier was named."
    ),
    sentence=sentence,
    limits=(Limit("disagreements", 48, "Show this many disagreements."),),
    template="disagreements.html.j2",
    use=Use(
        "Disagreements",
        "one classifier says the class,\nthe other does not",
        _pairs,
        place=30,
    ),
)
