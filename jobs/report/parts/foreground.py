"""Whether a classifier looks at the object or at the rest of the picture, by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from whylens.classifiers.foreground import relative_foreground_sensitivity
from whylens.jobs.report.part import Part
from whylens.jobs.report.tables import grouped, rows_of
from whylens.jobs.words import percent
from whylens.runs.lineage import Lineage

# The row of all classes together.
ALL = "all classes"


@dataclass(frozen=True)
class Foreground:
    """A class: accuracies of its images, plain and under noise, and what is made of them."""

    class_name: str
    images: int
    accuracy: float
    noise_on_object: float
    noise_on_rest: float
    relative_foreground_sensitivity: float


def load_foreground(run: Lineage) -> tuple[Foreground, ...]:
    """All classes together, each counting as much, then each, the least sensitive first."""

    def row(name: str, images: int, plain: float, on: float, off: float) -> Foreground:
        said = relative_foreground_sensitivity(on, off)
        return Foreground(name, images, *(round(one, 3) for one in (plain, on, off, said)))

    by_class = grouped(rows_of(run, "foreground"), lambda one: one["class_name"])
    if not by_class:
        return ()
    means = {name: _means(rows) for name, rows in by_class.items()}
    total = sum(map(len, by_class.values()))
    every = [row(name, len(by_class[name]), *means[name]) for name in by_class]
    return (
        row(ALL, total, *np.mean(list(means.values()), 0).tolist()),
        *sorted(every, key=lambda one: one.relative_foreground_sensitivity),
    )


def _means(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    names = ("plain", "noisy_object", "noisy_rest")
    return [float(np.mean([row[name] for row in rows])) for name in names]


def sentence(rows: Sequence[Foreground]) -> str:
    """What noise costs on the object, and elsewhere."""
    first = rows[0]
    return (
        f"Of all classes, {percent(first.accuracy)} of images are right, with noise on the object "
        f"{percent(first.noise_on_object)}, with noise on all the rest "
        f"{percent(first.noise_on_rest)}: a relative foreground sensitivity of "
        f"{first.relative_foreground_sensitivity:.2f}. 1 is a classifier that looks at the object "
        "alone; below 0 it looks at the rest more."
    )


FOREGROUND: Part[Foreground] = Part(
    name="foreground",
    title="Object and rest",
    tables=("foreground",),
    read=load_foreground,
    place=42,
    empty=lambda data: "Nothing: `whylens foreground` looks at a collection with masks.",
    sentence=sentence,
    headline=lambda data: sentence(data[FOREGROUND]),
    summary=lambda data: [sentence(data[FOREGROUND])],
)
