"""What people said of components, read back, and what a component counts as.

The latest row of each person is that person's view; spurious or not spurious, whichever more
persons say. A person who is unsure has no vote; a tie is unsure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from whylens.jobs.lineage import Lineage

TABLE = "labels"
SPURIOUS, NOT_SPURIOUS, UNSURE = LABELS = ("spurious", "not spurious", "unsure")


def label_rows(lineage: Lineage) -> list[dict[str, Any]]:
    """All rows by time, of the run and its sources, back to the one whose components they are."""
    rows: list[dict[str, Any]] = []
    for run in lineage.runs:
        if run.table(TABLE).units():
            rows.extend(run.table(TABLE).read().to_pylist())
        if run.table("components").units():
            break
    return sorted(rows, key=_when)


def _when(row: Mapping[str, Any]) -> datetime:
    when = datetime.fromisoformat(row["when"])
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
