"""Columns of tables."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa


def columns(kind: pa.DataType, *names: str) -> list[pa.Field]:
    """Columns of one type, for a table's schema."""
    return [pa.field(name, kind) for name in names]


class Rows:
    """A table's rows as mappings, some thousand at a time: all of ImageNet's take gigabytes."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self._table.to_batches(max_chunksize=4096):
            yield from batch.to_pylist()
