"""A table to read from while others write it, and whatever is broken in it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from whylens.errors import UsageError, WhylensError
from whylens.runs.storage import Storage
from whylens.runs.table import Table

# Seconds for which a listing of a remote folder is believed; a local one tells when it changed.
BELIEVED = 10.0
# Where a row that was scanned stands: columns that no table has of its own.
UNIT, ROW = "@unit", "@row"
# What of columns is pictures, or made of them.
HEAVY = (
    "binary", "large_binary", "fixed_size_list", "list<element: binary", "list<item: binary",
    "list<element: struct", "list<item: struct",
)  # fmt: skip


class ReadableTable(Table):
    """A table whose damaged parts are left out, each with a message in `damaged`."""

    def __init__(self, storage: Storage, name: str) -> None:
        super().__init__(storage, name)
        self.damaged: dict[str, str] = {}
        self._units: list[str] = []
        self._stamp: float | None = None
        self._version = 0
        self._found = _Keys()
        self._scans: dict[tuple[str, ...], pa.Table] = {}
        self._scanned: dict[tuple[str, ...], int] = {}
        self._lock, self._scanning = threading.RLock(), threading.RLock()

    def units(self) -> list[str]:
        """Names of the parts, sorted; listed anew when the folder has changed."""
        with self._lock:
            stamp = self._changed()
            if stamp != self._stamp:
                units, self._stamp = super().units(), stamp
                if units != self._units or self._storage.local:
                    self._units, self._version = units, self._version + 1
                    self.damaged.clear()  # it may have been made anew
            return self._units

    def look_again(self) -> None:
        """List the parts anew when they are next asked for: one was written from here."""
        with self._lock:
            self._stamp = None

    def version(self) -> int:
        """A number that rises when parts have come or gone."""
        self.units()
        return self._version

    def read(
        self, columns: Sequence[str] | None = None, units: Sequence[str] | None = None
    ) -> pa.Table:
        """The parts that can be read, of the columns named those that there are.

        Raises
        ------
        UsageError
            If there is no part.
        WhylensError
            If none of the parts can be read.
        """
        wanted = self.units() if units is None else units
        parts = [part for unit in wanted if (part := self._part_of(unit, columns)) is not None]
        if not parts and not wanted:
            raise UsageError(f"the run {self.url} has no table {self.name!r}")
        if not parts:
            raise WhylensError(self.damaged[wanted[0]])
        return pa.concat_tables(parts, promote_options="permissive")

    def scan(self, columns: Sequence[str]) -> pa.Table:
        """Some columns of all rows, each part read once; UNIT and ROW say where a row stands.

        Meant for numbers and names: they are kept. None of the columns may hold pictures.
        """
        key = tuple(columns)
        with self._scanning:
            version, kept = self.version(), self._scans.get(key)
            if kept is not None and self._scanned.get(key) == version:
                return kept
            units = self.units()
            seen = set() if kept is None else set(kept[UNIT].unique().to_pylist())
            new = [u for u in units if u not in seen and u not in self.damaged]
            if kept is None or new or seen - set(units):
                parts = [located(p, u) for u in new if (p := self._part_of(u, columns)) is not None]
                if kept is not None:
                    parts = [kept.filter(pc.is_in(kept[UNIT], pa.array(units))), *parts]
                if not parts:
                    return pa.table({UNIT: pa.array([], pa.string()), ROW: pa.array([], "int32")})
                kept = pa.concat_tables(parts, promote_options="permissive").combine_chunks()
                self._scans[key] = kept
            self._scanned[key] = version
            return kept

    def light_columns(self) -> list[str]:
        """The columns that hold neither pictures nor features, by the first part that is whole."""
        return [c.name for c in self.schema() if not str(c.type).startswith(HEAVY)]

    def picture_columns(self) -> list[str]:
        """The columns that hold one picture a row."""
        return [c.name for c in self.schema() if str(c.type) in ("binary", "large_binary")]

    def schema(self) -> pa.Schema:
        """As `Table.schema`, of the first part that is whole."""
        for unit in self.units():
            try:
                with self._storage.open(self._part(unit)) as file:
                    return pq.read_schema(file)
            except (pa.ArrowInvalid, OSError, UsageError):
                continue
        return pa.schema([])

    def where(
        self,
        values: Mapping[str, int],
        columns: Sequence[str] | None = None,
        near: int | None = None,
    ) -> pa.Table | None:
        """The rows in which some columns of whole numbers have these values; None: there are none.

        near: the place of the one part that holds all of them, as far as is known; without it all
        parts are asked, which is done once.
        """
        names, key = tuple(values), tuple(values.values())
        if near is None:
            units = self._homes_by_scan(values)
        else:
            units = self._found.look(self, names, key, near)
        found = []
        for unit in units:
            part = self._part_of(unit, None if columns is None else [*columns, *values])
            if part is None:
                continue
            for name, value in values.items():
                part = part.filter(pc.equal(part[name], value))
            if len(part):
                found.append(part)
        return pa.concat_tables(found, promote_options="permissive") if found else None

    def _homes_by_scan(self, values: Mapping[str, int]) -> list[str]:
        """The parts with such rows, by a scan that has these columns and, it may be, others."""
        names = next((kept for kept in self._scans if set(values) <= set(kept)), tuple(values))
        rows = self.scan(names)
        if set(values) - set(rows.column_names):
            return []
        for name, value in values.items():
            rows = rows.filter(pc.equal(rows[name], value))
        return sorted(rows[UNIT].unique().to_pylist())

    def at(self, unit: str, row: int, columns: Sequence[str] | None = None) -> dict[str, Any]:
        """One row, where `scan` says that it stands.

        Raises
        ------
        WhylensError
            If its part is gone or damaged.
        """
        part = self._part_of(unit, columns)
        if part is None or row >= len(part):
            raise WhylensError(
                self.damaged.get(unit, f"{self.url}: {self.name}/{unit} has no row {row}")
            )
        found: dict[str, Any] = part.slice(row, 1).to_pylist()[0]
        return found

    def keys_of(self, unit: str, names: Sequence[str]) -> set[tuple[int, ...]]:
        """The values of some columns in a part, from its footer where that says them."""
        try:
            with self._storage.open(self._part(unit)) as file:
                whole = pq.ParquetFile(file)
                told = _constant(whole, names)
                if told is not None:
                    return {told}
                table = whole.read(columns=list(names), use_threads=False)
        except (pa.ArrowInvalid, OSError, UsageError) as error:
            self._damage(unit, error)
            return set()
        if set(names) - set(table.column_names):
            return set()
        return set(zip(*(table[name].to_pylist() for name in names), strict=True))

    def _part_of(self, unit: str, columns: Sequence[str] | None) -> pa.Table | None:
        if unit in self.damaged:
            return None
        try:
            with self._storage.open(self._part(unit)) as file:
                whole = pq.ParquetFile(file)
                self._check(whole, None)
                there = set(whole.schema_arrow.names)
                wanted = (
                    None if columns is None else [c for c in dict.fromkeys(columns) if c in there]
                )
                # Parts are small: to share one out among threads takes longer than to read it.
                return whole.read(columns=wanted, use_threads=False)
        except (pa.ArrowInvalid, OSError, WhylensError) as error:
            self._damage(unit, error)
            return None

    def _damage(self, unit: str, error: Exception) -> None:
        place = self._storage.path(self._part(unit))
        self.damaged[unit] = f"{place} can't be read: {error}"

    def _changed(self) -> float:
        if self._storage.local:
            try:
                return os.stat(self._storage.path(f"tables/{self.name}")).st_mtime_ns
            except OSError:
                return -1
        return time.monotonic() // BELIEVED


class _Keys:
    """Which parts hold which values of some columns: asked part by part, remembered.

    Each part is asked under the lock, not all of them, so that nobody waits for another's search.
    """

    def __init__(self) -> None:
        self._homes: dict[tuple[str, ...], dict[tuple[int, ...], list[str]]] = {}
        self._asked: dict[tuple[str, ...], set[str]] = {}
        self._lock = threading.Lock()

    def look(
        self, table: ReadableTable, names: tuple[str, ...], key: tuple[int, ...], near: int
    ) -> list[str]:
        """The first part that is found to hold a key, from a place outward; none: there is none."""
        units = table.units()
        with self._lock:
            homes = self._homes.setdefault(names, {})
            asked = self._asked.setdefault(names, set())
            left = len(units) - len(asked)
        for unit in around(units, near) if left > 0 else ():
            if key in homes:
                break
            with self._lock:
                if unit in asked:
                    continue
                asked.add(unit)
                for found in table.keys_of(unit, names):
                    homes.setdefault(found, []).append(unit)
        with self._lock:
            found_in = set(homes.get(key, ()))
        return sorted(found_in)


def around(units: Sequence[str], place: int) -> Iterator[str]:
    """The units, those near a place first."""
    count = len(units)
    for step in range(max(place, count - place) + 1):
        if 0 <= place - step < count:
            yield units[place - step]
        if step and 0 <= place + step < count:
            yield units[place + step]


def located(part: pa.Table, unit: str) -> pa.Table:
    """A part with its unit and the places of its rows as columns."""
    part = part.append_column(UNIT, pa.repeat(unit, len(part)))
    return part.append_column(ROW, pa.array(np.arange(len(part), dtype=np.int32)))


def _constant(whole: pq.ParquetFile, names: Sequence[str]) -> tuple[int, ...] | None:
    """The one value that each of some columns has in a file, if its footer says so."""
    meta = whole.metadata
    places = {meta.schema.column(i).path: i for i in range(meta.num_columns)}
    values = []
    for name in names:
        if name not in places:
            return None
        ends = set()
        for group in range(meta.num_row_groups):
            told = meta.row_group(group).column(places[name]).statistics
            if told is None or not told.has_min_max or told.null_count:
                return None
            ends |= {told.min, told.max}
        if len(ends) != 1:
            return None
        values.append(int(ends.pop()))
    return tuple(values)
