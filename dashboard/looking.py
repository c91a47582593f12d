"""What views look up of single components, kept in memory for all who look at the run."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial

from whylens.dashboard.kept import Reading
from whylens.errors import WhylensError
from whylens.jobs.people.evidence import ClassAlphas, class_alphas, filled
from whylens.jobs.report.parts.finding import PICTURED, Finding, Key, Label
from whylens.jobs.report.tables import value


def component(reading: Reading, key: Key) -> Finding | None:
    """A component with its images, and what people said of it as of now; None: there is none."""
    # Looked for beside, generated images come to a component that was kept without them.
    looked_for = int(reading.generated() is None)
    versions = (*reading.versions(("components", "findings", *PICTURED)), looked_for)
    found = _component(reading, key, versions)
    said = reading.labels().get(key, [])
    return found and replace(found, labels=tuple(value(Label, row) for row in said))


def alphas(reading: Reading, class_index: int) -> ClassAlphas | None:
    """The alphas of a class's own images; None where the run has none."""
    return _alphas(reading, class_index, reading.versions(("images",)))


@lru_cache(maxsize=256)
def _component(reading: Reading, key: Key, versions: tuple[int, ...]) -> Finding | None:
    found = reading.component(*key)
    return found and filled(reading.run, found, partial(alphas, reading))


@lru_cache(maxsize=64)
def _alphas(reading: Reading, class_index: int, versions: tuple[int, ...]) -> ClassAlphas | None:
    try:
        return class_alphas(reading.run, class_index)
    except (WhylensError, OSError):
        return None
