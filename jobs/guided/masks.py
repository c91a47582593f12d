"""Masks that a user gives, or that a collection has: where counterfactuals may change an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from whylens.errors import UsageError
from whylens.images import RejectedImageError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from whylens.images import ImageCollection, ImageRecord


def check_folder(folder: str | None, mask: str) -> None:
    """Refuse a folder that isn't there, or that nothing would read, before work is spent."""
    if folder is None:
        return
    if mask != "given":
        raise UsageError(
            f"masks are given in {folder}, but guidance.editing.mask is {mask!r}: set it to 'given'"
        )
    if not Path(folder).is_dir():
        raise UsageError(f"the folder of masks {folder} is not there")


def given_masks(
    collection: ImageCollection,
    records: Sequence[ImageRecord],
    pictures: Sequence[NDArray[np.uint8]],
    size: int,
    folder: str | None,
) -> tuple[torch.Tensor, list[str | None]]:
    """Masks [B, 1, size, size] of images, cut as these are, and for each why it has none.

    `pictures` are the images [H, W, 3]; a mask is as large. It is read from
    `folder`/<image id>.png, or is the collection's own.
    """
    import torch

    from whylens.images.tensors import to_tensor

    masks, lacking = [], list[str | None]()
    for record, picture in zip(records, pictures, strict=True):
        mask, why = _given_mask(collection, record, folder)
        if mask is not None and mask.shape != picture.shape[:2]:
            (height, width), (high, wide) = mask.shape, picture.shape[:2]
            mask, why = None, f"its mask is {width} x {height} px, the image {wide} x {high}"
        if mask is None:
            mask = np.zeros(picture.shape[:2], dtype=bool)
        pixels = np.repeat(mask[..., None], 3, 2).astype(np.uint8) * 255
        masks.append(to_tensor(pixels, size)[:1])
        lacking.append(why)
    return torch.stack(masks), lacking


def _given_mask(
    collection: ImageCollection, record: ImageRecord, folder: str | None
) -> tuple[NDArray[np.bool_] | None, str | None]:
    from PIL import Image

    if folder is None:
        try:
            mask = collection.object_mask(record)
        except RejectedImageError as error:
            return None, str(error)
        return mask, None if mask is not None else "the collection has no mask of it"
    path = Path(folder, record.id).with_suffix(".png")
    if not path.resolve().is_relative_to(Path(folder).resolve()):
        return None, f"its id {record.id!r} leads out of the folder of masks"
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("L")) > 127, None
    except FileNotFoundError:
        return None, f"there is no mask {path}"
    except OSError as error:
        return None, f"its mask {path} can't be read: {error}"
