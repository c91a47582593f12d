"""Accuracy by group, and repairs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from whylens.jobs.report.part import Part
from whylens.jobs.report.tables import grouped, number, rows_of, value
from whylens.jobs.words import percent, plain_name
from whylens.runs.lineage import Lineage


@dataclass(frozen=True)
class Repair:
    """What a repair of the head, or none, comes to on the groups of an attribute."""

    repair: str
    knows: str
    accuracy: float | None
    worst_accuracy: float | None
    worst_class: str
    worst_value: str
    gap: float | None


@dataclass(frozen=True)
class Group:
    """A class with a value of an attribute; accuracies in the order of the repairs."""

    class_name: str
    value: str
    images: int
    accuracies: tuple[float | None, ...]


@dataclass(frozen=True)
class Value:
    """All images with a value of an attribute; accuracies in the order of the repairs.

    Without repair, `drawn` is the part of the images not of the class `drawn_to` that are called
    it, `drawn_elsewhere` that among images with other values; None where there is no such class.
    """

    value: str
    images: int
    accuracies: tuple[float | None, ...]
    drawn_to: str | None
    drawn: float | None
    drawn_elsewhere: float | None


@dataclass(frozen=True)
class Shortcut:
    """A spurious component: the part of its mined images that are called its class, by repair."""

    class_name: str
    component: int
    words: tuple[str, ...]
    images: int
    called: tuple[tuple[str, float | None, float | None], ...]


@dataclass(frozen=True)
class Attribute:
    """The groups of one attribute, the worst first, and what each repair does to them."""

    name: str
    images: int
    repairs: tuple[Repair, ...]
    groups: tuple[Group, ...]
    shortcuts: tuple[Shortcut, ...] = ()
    values: tuple[Value, ...] = ()


def load_groups(run: Lineage) -> tuple[Attribute, ...]:
    """Each attribute; the first carries the shortcuts, which are of the run."""
    groups = grouped(rows_of(run, "groups"), lambda row: row["attribute"])
    values = grouped(rows_of(run, "values"), lambda row: row["attribute"])
    shortcuts = grouped(
        rows_of(run, "shortcuts"), lambda row: (row["class_name"], row["component"])
    )
    found: list[Attribute] = []
    for name, rows in grouped(rows_of(run, "repairs"), lambda row: row["attribute"]).items():
        cells = grouped(groups.get(name, ()), lambda row: (row["class_name"], row["value"]))
        found.append(
            Attribute(
                name,
                int(rows[0]["images"]),
                tuple(value(Repair, row) for row in rows),
                tuple(
                    sorted(
                        (
                            Group(*key, int(of[0]["images"]),
                                  tuple(number(row["accuracy"]) for row in of))
                            for key, of in cells.items()
                        ),
                        key=lambda group: group.accuracies[0] or 0.0,
                    )
                ),
                () if found else tuple(
                    Shortcut(*key, tuple(of[0]["words"] or ()), int(of[0]["images"]),
                             tuple((row["repair"], number(row["called"]),
                                    number(row["own_accuracy"])) for row in of))
                    for key, of in shortcuts.items()
                ),
                tuple(
                    value(Value, of[0], accuracies=tuple(number(row["accuracy"]) for row in of))
                    for of in grouped(values.get(name, ()), lambda row: row["value"]).values()
                ),
            )
        )  # fmt: skip
    return tuple(found)


def sentence(rows: Sequence[Attribute]) -> str:
    """The worst group before and after the repair that leaves the best worst one."""
    said = []
    for row in rows:
        first = row.repairs[0]
        best = max(row.repairs, key=lambda one: one.worst_accuracy or 0.0)
        text = (
            f"By {row.name}, the worst group is {plain_name(first.worst_class)} with "
            f"{first.worst_value}: {percent(first.worst_accuracy)} of its images are right"
        )
        if best is not first:
            text += f", and of the worst one after {best.repair} {percent(best.worst_accuracy)}"
        said.append(f"{text}.")
    return " ".join(said)


GROUPS: Part[Attribute] = Part(
    name="groups",
    title="Groups and repairs",
    tables=("repairs", "groups", "shortcuts", "values"),
    read=load_groups,
    place=40,
    empty=lambda data: "Nothing: start `whylens groups` with this run as its source.",
    sentence=sentence,
    headline=lambda data: sentence(data[GROUPS][:1]),
    summary=lambda data: [sentence(data[GROUPS])],
    template="groups.html.j2",
)
