"""What a run folder holds, as plain values: the one loader of the report and the dashboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from whylens.jobs.report.classes import load_classes
from whylens.jobs.report.part import RunData, parts
from whylens.runs import Run
from whylens.runs.lineage import Lineage


def progress(folder: str) -> tuple[tuple[str, int], ...]:
    """How many parts each table has, here and in the runs this one builds on: grows as they do.

    UsageError where there is no run.
    """
    runs = Lineage(Run.open(folder)).runs
    return tuple(
        (name, sum(len(run.table(name).units()) for run in runs)) for name in shown_tables()
    )


def load_run(folder: str) -> RunData:
    """Read a run folder for showing; UsageError where there is no run."""
    run = Lineage(Run.open(folder))
    return data_of(run, {part.name: part.read(run) for part in parts()})


def data_of(run: Lineage, rows: Mapping[str, tuple[Any, ...]]) -> RunData:
    """A run with the rows of its parts, by their names."""
    classes, images = load_classes(run)
    return RunData(
        uri=run.runs[0].folder,
        manifest=whole_record(run.records),
        classes=classes,
        images=images,
        rows=rows,
        stages=frozenset(name for name in shown_tables() if run.has(name)),
    )


def whole_record(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """run.json with what the runs before it add: their settings, timings and warnings."""
    spec: dict[str, Any] = {}
    timings: dict[str, Any] = {}
    warnings: list[Any] = []
    for record in records:
        spec = {**record.get("spec", {}), **{k: v for k, v in spec.items() if v is not None}}
        timings = {**record.get("timings", {}), **timings}
        warnings = [*record.get("warnings", ()), *warnings]
    return {**records[0], "spec": spec, "timings": timings, "warnings": warnings}


def shown_tables() -> list[str]:
    """The tables that something is shown of."""
    return list(dict.fromkeys(["images", *(name for part in parts() for name in part.tables)]))
