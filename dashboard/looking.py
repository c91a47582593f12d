"""What views look up of single components, kept in memory for all who look at the run."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial

from whylens.dashboard.kept import Key, Reading
from whylens.errors import WhylensError
from whylens.jobs.people.evidence import ClassAlphas, class_alphas, filled
from whylens.jobs.report.parts.finding import PICTURED, Finding, Label
from whylens.jobs.report.tables import value


def component(reading: Reading, key: Key) -> Finding | None:
    """A component with its images, and what people said of it as of now; None: there is none."""
    # Looked for beside, generated images come to a component that was kept without them.
    looked_for = int(reading.generated() is None)
    parts = (*_parts(reading, "components", "findings", *PICTURED), looked_for)
    found = _component(reading, key, parts)
    said = reading.labels().get(key, [])
    return found and replace(found, labels=tuple(value(Label, row) for row in said))


def alphas(reading: Reading, class_index: int) -> ClassAlphas | None:
    """The alphas of a class's own images; None where the run has none."""
    return _alphas(reading, class_index, _parts(reading, "images"))


def size_of(reading: Reading, name: str) -> int:
    """How many parts a table has; 0 where there is none."""
    return len(reading.run.table(name).units()) if reading.run.has(name) else 0


def _parts(reading: Reading, *names: str) -> tuple[int, ...]:
    return tuple(size_of(reading, name) for name in names)


@lru_cache(maxsize=256)
def _component(reading: Reading, key: Key, parts: tuple[int, ...]) -> Finding | None:
    found = reading.component(*key)
    return found and filled(reading.run, found, partial(alphas, reading))


@lru_cache(maxsize=64)
def _alphas(reading: Reading, class_index: int, parts: tuple[int, ...]) -> ClassAlphas | None:
    try:
        return class_alphas(reading.run, class_index)
    except (WhylensError, OSError):
        return None
