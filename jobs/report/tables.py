"""Reading tables for showing: one may be missing, and may lack columns that only some runs have."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import pyarrow as pa

from whylens.runs import MissingColumnsError
from whylens.runs.lineage import Lineage

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


def read(run: Lineage, name: str, columns: Sequence[str] | None = None) -> pa.Table | None:
    """A table, of the wanted columns those that exist; None: its stage has not run."""
    if not run.has(name):
        return None
    table = run.table(name)
    try:
        return table.read(columns)
    except MissingColumnsError:
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


def grouped(
    rows: Iterable[dict[str, Any]], key: Callable[[dict[str, Any]], Key]
) -> dict[Key, list[dict[str, Any]]]:
    """Rows by a key, each key's in their order."""
    found: dict[Key, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


def value(kind: type[Value], row: Mapping[str, Any], **own: Any) -> Value:
    """A row as a dataclass: a field is what `own` says, else the column of its name.

    What is missing, or no number, becomes None, "" or empty, as the field's type has it.
    """
    wanted: Any = kind
    given = {name: of(row.get(name)) for name, of in _readers(wanted) if name not in own}
    return kind(**given, **own)


@cache
def _readers(kind: type[Any]) -> list[tuple[str, Callable[[Any], Any]]]:
    types = get_type_hints(kind)
    return [(one.name, _reader(types[one.name])) for one in fields(kind)]


def _reader(kind: Any) -> Callable[[Any], Any]:
    """How a column becomes a field of a type; structs of a list become dataclasses, too."""
    inside: Any = get_args(kind)[0] if get_origin(kind) is tuple else None
    structs = is_dataclass(inside)
    if structs:
        return lambda column: tuple(value(inside, one) for one in column or ())
    return READERS.get(kind, lambda column: column)


def _text(column: Any) -> str:
    return str(column or "")


def _numbers(column: Any) -> tuple[float, ...]:
    return tuple(found for raw in column or () if (found := number(raw)) is not None)


READERS: dict[Any, Callable[[Any], Any]] = {
    str: _text,
    int: int,
    bool: bool,
    float | None: number,
    tuple[float, ...]: _numbers,
    tuple[bytes, ...]: lambda column: tuple(column or ()),
    tuple[str, ...]: lambda column: tuple(column or ()),
}
