"""Where an image changed or could change, laid over it."""

from __future__ import annotations

import numpy as np
from PIL import Image

from whylens.images.collection import RejectedImageError
from whylens.images.decoding import decode
from whylens.images.tensors import to_png

# Vermilion of Okabe and Ito: told from photographs' colours with every kind of colour vision.
TINT = np.array([213, 94, 0], dtype=np.float32)


def changed(image: bytes, difference: bytes) -> bytes | None:
    """The image in grey, vermilion where it changed; None where either can't be read."""
    read = _read(image, difference)
    if read is None:
        return None
    picture, how_much = read
    weight = how_much.max(-1, keepdims=True)
    grey = np.broadcast_to(picture.mean(-1, keepdims=True) * 0.8 + 40, picture.shape)
    return to_png(np.clip((1 - weight) * grey + weight * TINT, 0, 255).astype(np.uint8))


def may_change(image: bytes, mask: bytes) -> bytes | None:
    """The image, faded where it was not allowed to change; None where either can't be read."""
    read = _read(image, mask)
    if read is None:
        return None
    picture, where = read
    faded = picture.mean(-1, keepdims=True) * 0.35 + 150
    return to_png(np.clip(where * picture + (1 - where) * faded, 0, 255).astype(np.uint8))


def _read(image: bytes, over: bytes) -> tuple[np.ndarray, np.ndarray] | None:
    """An image [H, W, 3] in 0 to 255, and another at its size in [0, 1]."""
    try:
        picture, other = decode(image), decode(over)
    except RejectedImageError:
        return None
    height, width = picture.shape[:2]
    resized = Image.fromarray(other).resize((width, height), Image.Resampling.BILINEAR)
    return picture.astype(np.float32), np.asarray(resized, dtype=np.float32) / 255
