"""Reading tables for showing: one may be missing, and may lack columns that only some runs have."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from whylens.jobs.lineage import Lineage


def read(run: Lineage, name: str, columns: Sequence[str] | None = None) -> pa.Table | None:
    """A table, of the wanted columns those that exist; None: its stage has not run."""
    if not run.has(name):
        return None
    table = run.table(name)
    try:
        return table.read(columns)
    except (pa.ArrowInvalid, KeyError):
        whole = table.read()
        return whole.select([c for c in whole.column_names if columns is None or c in columns])


def rows_of(run: Lineage, name: str) -> list[dict[str, Any]]:
    """A small table as dictionaries; empty where the stage did not run."""
    table = read(run, name)
    return [] if table is None else table.to_pylist()


def number(value: Any) -> float | None:
    """The value as a float; None where it is missing, not a number, or not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def losses(row: Mapping[str, Any]) -> tuple[float, ...]:
    """The finite losses of an optimisation, a step each."""
    return tuple(value for raw in row.get("losses") or () if (value := number(raw)) is not None)
