"""What people said of components, read back, and what a component counts as.

The latest row of each person is that person's view; spurious or not spurious, whichever more
persons say. A person who is unsure has no vote; a tie is unsure. Rows are never removed: one that
says "withdrawn" takes back the latest of the same person on the same component.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from whylens.runs import Run, Table
from whylens.runs.lineage import Lineage

LABELLED = "labels"
SPURIOUS, NOT_SPURIOUS, UNSURE = LABELS = ("spurious", "not spurious", "unsure")
WITHDRAWN = "withdrawn"


def label_rows(lineage: Lineage) -> list[dict[str, Any]]:
    """The rows that stand by time, of the run and its sources, back to the one with components."""
    return standing(row for table in label_tables(lineage) for row in table.read().to_pylist())


def label_tables(lineage: Lineage) -> Iterator[Table]:
    """The tables labels that count: of the run and its sources, back to the one with components."""
    for run in lineage.runs:
        if (table := lineage.of(run, LABELLED)).units():
            yield table
        if lineage.of(run, "components").units():
            return


def by_time(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of labels, oldest first."""
    return sorted((dict(row) for row in rows), key=said_at)


def standing(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of labels that nobody took back, oldest first."""
    kept: list[dict[str, Any] | None] = []
    places: dict[tuple[int, int, str], list[int]] = {}
    for row in by_time(rows):
        person = str(row["who"]).casefold()
        mine = places.setdefault((row["class_index"], row["component"], person), [])
        if row["label"] != WITHDRAWN:
            mine.append(len(kept))
            kept.append(row)
        elif mine:
            kept[mine.pop()] = None
    return [row for row in kept if row is not None]


def label_home(lineage: Lineage) -> Run:
    """The run that labels belong to: the one whose components they are of, else the run itself."""
    for name in ("components", "findings"):
        if lineage.has(name):
            return lineage.holder(name)
    return lineage.runs[0]


def said_at(row: Mapping[str, Any]) -> datetime:
    """When a row was said; the beginning of time where it tells no date."""
    try:
        when = datetime.fromisoformat(str(row["when"]))
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def verdicts(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[int, int], str]:
    """What each labelled component (class, component) counts as, from its rows by time."""
    views: dict[tuple[int, int], dict[str, str]] = {}
    for row in rows:
        persons = views.setdefault((row["class_index"], row["component"]), {})
        persons[row["who"].casefold()] = row["label"]
    counted = {}
    for key, persons in views.items():
        said = list(persons.values())
        lead = said.count(SPURIOUS) - said.count(NOT_SPURIOUS)
        counted[key] = SPURIOUS if lead > 0 else NOT_SPURIOUS if lead < 0 else UNSURE
    return counted
