"""Tables without their pictures: parts of the report, counted and told at any size."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from whylens.runs import OpenedRun, Run, Table
from whylens.runs.lineage import Lineage
from whylens.runs.readable import ROW, UNIT, ReadableTable

# What stands for a picture that is there.
MADE = b"made"


class Light(Lineage):
    """A run of which no picture is read."""

    def __init__(self, run: OpenedRun) -> None:
        self.runs, self.records = run.runs, run.records
        self._run = run

    def of(self, run: Run, name: str) -> Table:
        return LightTable(self._run.of(run, name))


class LightTable(Table):
    """A table with MADE in the place of pictures; null where the row says why it failed."""

    def __init__(self, table: ReadableTable) -> None:
        self._table, self.name = table, table.name

    def units(self) -> list[str]:
        return self._table.units()

    def read(
        self, columns: Sequence[str] | None = None, units: Sequence[str] | None = None
    ) -> pa.Table:
        """As `Table.read`; lists of pictures, and rows within rows, are left out."""
        rows = self._table.scan(self._table.light_columns()).drop_columns([UNIT, ROW])
        made = pa.array([MADE] * len(rows), pa.binary())
        if "failed" in rows.column_names:
            made = pc.if_else(pc.is_null(rows["failed"]), made, pa.scalar(None, pa.binary()))
        for name in self._table.picture_columns():
            rows = rows.append_column(name, made)
        return (
            rows if columns is None else rows.select([c for c in columns if c in rows.schema.names])
        )
