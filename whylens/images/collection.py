"""An image collection: a listing of images with stable ids, and a way to load each."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from whylens.images.listing import ImageRecord, Records


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
        All images, in an order that stays: by id, or by row where they come in rows. Listing
        decodes nothing.
    rejected
        What the listing itself left out.
    """

    uri: str
    records: Records
    rejected: tuple[Rejected, ...] = ()

    @abstractmethod
    def load(self, record: ImageRecord) -> NDArray[np.uint8]:
        """The image [H, W, 3] uint8, upright, on white where it was transparent.

        Raises
        ------
        RejectedImageError
            If it is corrupt, truncated, empty, too large, or no image.
        """

    def object_mask(self, record: ImageRecord) -> NDArray[np.bool_] | None:
        """Where an image shows the object of its class, [H, W]; None where nobody knows.

        Raises
        ------
        RejectedImageError
            If it can't be read.
        """
        return None

    def attributes(self) -> Mapping[str, Sequence[str]]:
        """What is known of images beside their class: by name, a value a record; often nothing."""
        return {}

    def part(self, which: slice) -> Self:
        """The collection of a slice of the records: all that a worker needs to load those."""
        part = copy.copy(self)
        part.records, part.rejected = self.records[which], ()
        return part

    def only(self, records: Records) -> Self:
        """The collection of some of its records."""
        fewer = copy.copy(self)
        fewer.records = records
        return fewer

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


def require_fit(mask: NDArray[np.bool_], image: NDArray[np.uint8]) -> None:
    """That a mask [h, w] is of an image [H, W, 3]: of its size, or of its shape at another size.

    Raises
    ------
    RejectedImageError
        If it is of another shape, or marks nothing.
    """
    (h, w), (height, width) = mask.shape, image.shape[:2]
    # Sides of a resized picture are whole, so each may be less than a pixel off.
    if abs(w * height - h * width) > max(height, width):
        raise RejectedImageError(f"its mask is {w} x {h}, the image {width} x {height}")
    if not mask.any():
        raise RejectedImageError("its mask marks no object")
