"""A table: one Parquet part a unit, read no further than asked."""

import io
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from whylens.errors import UsageError, WhylensError
from whylens.runs.storage import Storage

# What parts are written as, in their metadata. Read are this and all before it: 1 said nothing, and
# had thumbnails among the images' features.
SCHEMA = 2
_KEY = b"whylens.schema"


class Table:
    """A table: one Parquet part a unit; a unit is done if and only if its part is there."""

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage = storage
        self.name = name

    @property
    def url(self) -> str:
        """The folder of its run."""
        return self._storage.url

    def units(self) -> list[str]:
        """Names of the finished units, sorted."""
        names = self._storage.names(f"tables/{self.name}")
        return [n.removesuffix(".parquet") for n in names if n.endswith(".parquet")]

    def done(self, unit: str) -> bool:
        return self._storage.exists(self._part(unit))

    def write(self, unit: str, rows: pa.Table, group: int | None = None) -> None:
        """Write a unit's part, whole or not at all.

        `group` rows are compressed together, where few of a part are wanted at a time.
        """
        said = {**(rows.schema.metadata or {}), _KEY: str(SCHEMA).encode()}
        buffer = io.BytesIO()
        pq.write_table(
            rows.replace_schema_metadata(said), buffer, compression="zstd", row_group_size=group
        )
        self._storage.write(self._part(unit), buffer.getvalue())

    def keep(self, unit: str, rows: pa.Table) -> None:
        """Write a unit's part where it is not there yet, or holds other rows."""
        if not (self.done(unit) and self.read_part(unit).equals(rows)):
            self.write(unit, rows)

    def remove(self, unit: str) -> None:
        """Remove a unit's part."""
        self._storage.remove(self._part(unit))

    def schema(self) -> pa.Schema:
        """The columns of the first part; of none where there is none.

        Raises
        ------
        WhylensError
            As `read_part`.
        """
        for unit in self.units():
            with self._opened(unit, None) as part:
                return part.schema_arrow
        return pa.schema([])

    def read(
        self, columns: Sequence[str] | None = None, units: Sequence[str] | None = None
    ) -> pa.Table:
        """All parts by unit name, or those of some units, of the columns named.

        Raises
        ------
        UsageError
            If no part is there: the stage that writes the table has not run.
        WhylensError
            As `read_part`.
        """
        units = self.units() if units is None else units
        if not units:
            raise UsageError(
                f"the run {self._storage.url} has no table {self.name!r}: its stage has not run"
            )
        parts = [self.read_part(unit, columns) for unit in units]
        return pa.concat_tables(parts, promote_options="permissive")

    def read_part(self, unit: str, columns: Sequence[str] | None = None) -> pa.Table:
        """One part, and no more of its file than the columns named.

        Tables larger than the memory are read part by part.

        Raises
        ------
        WhylensError
            If the file is no whole Parquet file, or of a later version of whylens.
        MissingColumnsError
            If it lacks a column.
        """

        def read() -> pa.Table:
            with self._opened(unit, columns) as part:
                return part.read(columns=columns)

        return self._storage.patiently(read)

    def read_rows(
        self, unit: str, key: str, values: Collection[Any], columns: Sequence[str]
    ) -> pa.Table:
        """The rows of a part whose `key` is one of some values, and only the row groups with any.

        Raises
        ------
        WhylensError, MissingColumnsError
            As `read_part`.
        """

        def read() -> pa.Table:
            with self._opened(unit, [key, *columns]) as part:
                kind = part.schema_arrow.field(key).type
            wanted = pc.field(key).isin(pa.array(list(values), kind))
            # By the least and largest key of each row group, which the footer holds.
            with self._storage.open(self._part(unit)) as file:
                return pq.read_table(file, columns=list(columns), filters=wanted)

        return self._storage.patiently(read)

    @contextmanager
    def _opened(self, unit: str, columns: Sequence[str] | None) -> Iterator[pq.ParquetFile]:
        where = self._part(unit)
        with self._storage.open(where) as file:
            try:
                # Ranges that lie together are fetched together.
                part = pq.ParquetFile(file, pre_buffer=True)
            except pa.ArrowInvalid as error:
                raise WhylensError(
                    f"{self._storage.path(where)} is damaged ({error}): remove it, and "
                    "start the run's command again, which makes it anew"
                ) from error
            self._check(part, columns)
            yield part

    def _check(self, part: pq.ParquetFile, columns: Sequence[str] | None) -> None:
        version = int((part.schema_arrow.metadata or {}).get(_KEY, 1))
        if version > SCHEMA:
            raise WhylensError(
                f"the table {self.name!r} of {self._storage.url} has the schema {version}, and "
                f"this version of whylens reads up to {SCHEMA}: install the one that the run's "
                "run.json names"
            )
        lacking = sorted(set(columns or ()) - set(part.schema_arrow.names))
        if lacking:
            raise MissingColumnsError(
                f"the table {self.name!r} of {self._storage.url} has no column "
                f"{', '.join(lacking)}: a whylens of the schema {version} wrote it, this one is of "
                f"{SCHEMA}. Run its job again, into another folder"
            )

    def _part(self, unit: str) -> str:
        return f"tables/{self.name}/{unit}.parquet"


class MissingColumnsError(WhylensError):
    """A table lacks columns, since another version of whylens wrote it."""
