"""Columns of tables."""

import pyarrow as pa


def columns(kind: pa.DataType, *names: str) -> list[pa.Field]:
    """Columns of one type, for a table's schema."""
    return [pa.field(name, kind) for name in names]
