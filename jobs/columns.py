"""Columns of tables."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pyarrow as pa


def columns(kind: pa.DataType, *names: str) -> list[pa.Field]:
    """Columns of one type, for a table's schema."""
    return [pa.field(name, kind) for name in names]


def columns_of(task: Any, schema: pa.Schema) -> dict[str, Any]:
    """The columns of a schema that a task has as fields."""
    names = (field.name for field in fields(task))
    return {name: getattr(task, name) for name in names if name in schema.names}


class Rows:
    """A table's rows as mappings, some thousand at a time: all of ImageNet's take gigabytes."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self._table.to_batches(max_chunksize=4096):
            yield from batch.to_pylist()
