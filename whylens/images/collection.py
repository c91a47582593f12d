"""An image collection: a listing of images with stable ids, and a way to load each."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ImageRecord:
    """One image of a collection.

    `id` is stable across machines (a relative path, a key, a row); `path` is for people;
    `class_name` is the collection's own label, None where there is none.
    """

    id: str
    path: str
    class_name: str | None = None
    caption: str | None = None


class RejectedImageError(Exception):
    """An image that can't be used; the message is the reason."""


@dataclass(frozen=True)
class Rejected:
    """A file or row that is left out, and why."""

    id: str
    path: str
    reason: str


class ImageCollection(ABC):
    """Images with ids; pickled to workers, so it holds no open files.

    Attributes
    ----------
    uri
        What `open_collection` was given.
    records
        All images, sorted by id. Listing decodes nothing.
    rejected
        What the listing itself left out.
    """

    uri: str
    records: tuple[ImageRecord, ...]
    rejected: tuple[Rejected, ...] = ()

    @abstractmethod
    def load(self, record: ImageRecord) -> NDArray[np.uint8]:
        """The image [H, W, 3] uint8, upright, on white where it was transparent.

        Raises
        ------
        RejectedImageError
            If it is corrupt, truncated, empty, too large, or no image.
        """

    def __len__(self) -> int:
        return len(self.records)


def units(count: int, size: int) -> list[tuple[str, slice]]:
    """Cut `count` records into units of `size`: (name that sorts, slice)."""
    return [
        (f"{start // size:06d}", slice(start, min(start + size, count)))
        for start in range(0, count, size)
    ]


def labels_of(records: Sequence[ImageRecord], classes: dict[str, int]) -> NDArray[np.int32]:
    """Class index of each record, -1 where it has no class that the classifier knows."""
    return np.asarray(
        [-1 if r.class_name is None else classes.get(r.class_name, -1) for r in records],
        dtype=np.int32,
    )
