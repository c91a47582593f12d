"""What points of the map are told apart by: groups with a colour and a shape, and how many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from whylens.jobs.report.parts.finding import Finding, Verdict, verdict

# Of Okabe and Ito, told apart with every kind of colour vision; shapes differ, too.
WRONG, RIGHT, OTHER = "#d55e00", "#0072b2", "#999999"
CLASSES = (
    ("#0072b2", "circle"), ("#d55e00", "diamond"), ("#009e73", "square"), ("#cc79a7", "cross"),
    ("#e69f00", "triangle-up"), ("#56b4e9", "star"),
)  # fmt: skip
LOOKS = {
    Verdict.WEAK: (OTHER, "circle"),
    Verdict.UNCHECKED: ("#56b4e9", "cross"),
    Verdict.PULLS: ("#e69f00", "square"),
    Verdict.RELIES: (WRONG, "diamond"),
}
# Suspicion in steps, the least first.
STEPS = ((0.0, OTHER, "circle"), (0.25, "#56b4e9", "square"), (0.5, "#e69f00", "diamond"),
         (0.75, WRONG, "star"))  # fmt: skip


@dataclass(frozen=True)
class Group:
    """Rows of the map that look alike."""

    name: str
    rows: list[int]
    colour: str
    shape: str

    @property
    def title(self) -> str:
        """Its entry in the legend."""
        return f"{self.name} ({len(self.rows):,})"


def by_mistake(wrong: np.ndarray, kept: Sequence[int]) -> list[Group]:
    """Images that are rightly classified, and those taken for another class."""
    return [
        Group("rightly classified", [i for i in kept if not wrong[i]], RIGHT, "circle"),
        Group("taken for another class", [i for i in kept if wrong[i]], WRONG, "x"),
    ]


def by_class(names: Sequence[str], kept: Sequence[int]) -> list[Group]:
    """The classes with most points, each of its own look; all others are grey, and below them."""
    counts = Counter(names[i] for i in kept)
    first = [name for name, _ in counts.most_common(len(CLASSES))]
    rest = [i for i in kept if names[i] not in first]
    groups = [
        Group(name, [i for i in kept if names[i] == name], *look)
        for name, look in zip(first, CLASSES, strict=False)
    ]
    others = len(counts) - len(first)
    return [*([Group(f"{others:,} other classes", rest, OTHER, "circle")] if rest else []), *groups]


def by_verdict(components: Sequence[Finding]) -> list[Group]:
    """Components by what the images without the object say of them."""
    return [
        Group(kind.value, rows, *look)
        for kind, look in LOOKS.items()
        if (rows := [i for i, one in enumerate(components) if verdict(one) is kind])
    ]


def by_suspicion(components: Sequence[Finding]) -> list[Group]:
    """Components by suspicion, in steps of a quarter."""
    lows = [low for low, _, _ in STEPS]
    step = np.searchsorted(lows, [one.suspicion or 0.0 for one in components], "right") - 1
    groups = []
    for place, (low, colour, shape) in enumerate(STEPS):
        if rows := np.flatnonzero(step == place).tolist():
            groups.append(Group(f"suspicion from {low:.2f}", rows, colour, shape))
    return groups
