"""Records of a collection, kept as columns: ten million of them take little more than their ids."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# Records are made that many at a time when one goes through all of them.
CHUNK = 4096


@dataclass(frozen=True)
class ImageRecord:
    """One image of a collection.

    `id` is stable across machines (a relative path, a key, a row); `path` is for people;
    `class_name` is the collection's own label, None where there is none; `place` is where the
    collection itself finds the image: a row; an offset and a size.
    """

    id: str
    path: str
    class_name: str | None = None
    caption: str | None = None
    place: tuple[int, ...] = ()


class Records(Sequence[ImageRecord]):
    """Records as Arrow columns; a slice shares them, and travels alone.

    A record of Python objects takes 350 bytes. Here a record is its id, the number of its
    class, its caption and its place, and `path` is `root` followed by its own column or the id.

    Parameters
    ----------
    ids
        An array of strings, or a sequence.
    root
        What all paths begin with.
    tails
        What follows in each path; the ids where it is left out.
    classes, captions
        Strings or nulls; left out where no image has one.
    place
        Columns of whole numbers.
    """

    def __init__(
        self,
        ids: Any,
        root: str = "",
        *,
        tails: Any = None,
        classes: Any = None,
        captions: Any = None,
        place: Sequence[Any] = (),
    ) -> None:
        columns = {"id": _strings(ids)}
        if tails is not None:
            columns["tail"] = _strings(tails)
        if classes is not None:
            columns["class_name"] = _classes(classes)
        if captions is not None:
            columns["caption"] = _strings(captions)
        for axis, numbers in enumerate(place):
            columns[f"place{axis}"] = pa.array(numbers, pa.int64())
        self._root, self._table = root, pa.table(columns)

    @classmethod
    def _of(cls, root: str, table: pa.Table) -> Records:
        records = cls.__new__(cls)
        records._root, records._table = root, table
        return records

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @overload
    def __getitem__(self, index: int) -> ImageRecord: ...
    @overload
    def __getitem__(self, index: slice) -> Records: ...
    def __getitem__(self, index: int | slice) -> ImageRecord | Records:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                return Records._of(self._root, self._table.take(np.arange(start, stop, step)))
            return Records._of(self._root, self._table.slice(start, max(stop - start, 0)))
        row = range(len(self))[index]
        (record,) = self._made(self._table.slice(row, 1))
        return record

    def __iter__(self) -> Iterator[ImageRecord]:
        for start in range(0, len(self), CHUNK):
            yield from self._made(self._table.slice(start, CHUNK))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Records):
            return NotImplemented
        return len(self) == len(other) and all(
            one == another for one, another in zip(self, other, strict=True)
        )

    __hash__ = None  # type: ignore[assignment]

    def class_names(self) -> set[str]:
        """The class names that occur."""
        if "class_name" not in self._table.column_names:
            return set()
        names = pc.unique(self._table["class_name"]).to_pylist()
        return {str(name) for name in names if name is not None}

    def with_ids(self, ids: Collection[str]) -> dict[str, ImageRecord]:
        """The records that have one of these ids, by id."""
        wanted = pa.array(sorted(set(ids)), self._table["id"].type)
        found = self._table.filter(pc.is_in(self._table["id"], value_set=wanted))
        return {record.id: record for record in self._made(found)}

    def ids(self) -> pa.ChunkedArray:
        """All ids, in order."""
        return self._table["id"]

    def only(self, ids: pa.ChunkedArray) -> Records:
        """Those that have one of these ids, in their order here."""
        return Records._of(
            self._root, self._table.filter(pc.is_in(self._table["id"], value_set=ids))
        )

    def fingerprint(self) -> str:
        """Tells listings apart: SHA-256 of all ids, in order."""
        seen = hashlib.sha256()
        for start in range(0, len(self), CHUNK):
            chunk = self._table["id"].slice(start, CHUNK).to_pylist()
            seen.update("\0".join([*chunk, ""]).encode())
        return seen.hexdigest()

    def twice(self, mark: str) -> Records:
        """These, and then each again with an id that ends in `mark`; paths stay."""
        table = self._table
        if "tail" not in table.column_names:
            table = table.append_column("tail", table["id"])
        place = table.schema.get_field_index("id")
        end, between = (pa.scalar(part, pa.large_string()) for part in (mark, ""))
        marked = pc.binary_join_element_wise(table["id"], end, between)
        again = table.set_column(place, "id", marked)
        return Records._of(self._root, pa.concat_tables([table, again]))

    def sorted(self) -> Records:
        """By id."""
        return Records._of(self._root, self._table.sort_by("id"))

    def _made(self, table: pa.Table) -> list[ImageRecord]:
        columns = {name: table[name].to_pylist() for name in table.column_names}
        ids = columns["id"]
        none = [None] * len(ids)
        places = [columns[name] for name in table.column_names if name.startswith("place")]
        return [
            ImageRecord(id_, self._root + tail, class_name, caption, place)
            for id_, tail, class_name, caption, place in zip(
                ids,
                columns.get("tail", ids),
                columns.get("class_name", none),
                columns.get("caption", none),
                zip(*places, strict=True) if places else [()] * len(ids),
                strict=True,
            )
        ]

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickled slice of an Arrow table may take its whole buffers along, and a slice of a
        # dictionary takes all its words; a stream takes the slice, and repeated words nothing.
        table = self._table
        if "class_name" in table.column_names:
            index = table.schema.get_field_index("class_name")
            words = table["class_name"].cast(pa.large_string())
            table = table.set_column(index, "class_name", words)
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_stream(sink, table.schema, options=options) as stream:
            stream.write_table(table)
        return _unpickled, (self._root, sink.getvalue().to_pybytes())


def _unpickled(root: str, content: bytes) -> Records:
    return Records._of(root, pa.ipc.open_stream(content).read_all())


def _strings(values: Any) -> Any:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values.cast(pa.large_string())
    return pa.array(values, pa.large_string())


def _classes(values: Any) -> Any:
    if isinstance(values, pa.Array | pa.ChunkedArray) and pa.types.is_dictionary(values.type):
        return values
    return _strings(values).dictionary_encode()
