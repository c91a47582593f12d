"""Images that are no part of a run, and why: one that can't be read ends no job."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from whylens.images import ImageCollection, Rejected, RejectedImageError
from whylens.images.collection import require_fit
from whylens.runs import Run

REJECTED = "rejected"
REASONS = pa.schema([(name, pa.string()) for name in ("id", "path", "reason", "collection")])
GONE = "no longer in the collection"
UNKNOWN = "nobody says where its object is"


def write_rejected(run: Run, unit: str, rejected: Sequence[Rejected], tag: str) -> None:
    """Add images that are left out to the table `rejected`, once a unit."""
    _write(run, unit, _rows(rejected, tag))


class ReadableImages:
    """The images of a collection that can be read; those that can't are kept with their reasons.

    A run looks again at images that were embedded long ago: files may have gone since.
    """

    def __init__(self, collection: ImageCollection, tag: str) -> None:
        self.collection, self.tag = collection, tag
        self._rejected: dict[str, Rejected] = {}

    def load(self, ids: Sequence[str]) -> dict[str, NDArray[np.uint8]]:
        """Images [H, W, 3] by id, in the order of the ids, without those that can't be read."""
        records, found = self.collection.records.with_ids(ids), {}
        for name in ids:
            if name not in records:
                self._rejected[name] = Rejected(name, name, GONE)
                continue
            try:
                found[name] = self.collection.load(records[name])
            except RejectedImageError as error:
                self._rejected[name] = Rejected(name, records[name].path, str(error))
        return found

    def masks(self, images: Mapping[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.bool_]]:
        """Where loaded images show the object of their class, by id; those of which nobody knows,
        and those whose mask can't be read or is of another image, are left out."""
        found = {}
        for name, record in self.collection.records.with_ids(list(images)).items():
            try:
                mask = self.collection.object_mask(record)
                if mask is not None:
                    require_fit(mask, images[name])
                    found[name] = mask
            except RejectedImageError as error:
                self._rejected[name] = Rejected(name, record.path, str(error))
        return found

    def without_mask(self, images: Iterable[str], masks: Iterable[str]) -> None:
        """Note images, by id, of which no mask is known, where no other reason is."""
        for name, record in self.collection.records.with_ids(sorted({*images} - {*masks})).items():
            self._rejected.setdefault(name, Rejected(name, record.path, UNKNOWN))

    def rejected(self) -> list[dict[str, str]]:
        """Rows of what could not be read since this was asked last."""
        rows, self._rejected = _rows(self._rejected.values(), self.tag), {}
        return rows


def write_unreadable(run: Run, unit: str, *images: ReadableImages) -> None:
    """Add what could not be read of collections to the table `rejected`, once a unit."""
    _write(run, unit, [row for one in images for row in one.rejected()])


def _rows(rejected: Iterable[Rejected], tag: str) -> list[dict[str, str]]:
    return [{"id": r.id, "path": r.path, "reason": r.reason, "collection": tag} for r in rejected]


def _write(run: Run, unit: str, rows: Sequence[Mapping[str, str]]) -> None:
    if rows and not (table := run.table(REJECTED)).done(unit):
        table.write(unit, pa.Table.from_pylist(rows, schema=REASONS))
