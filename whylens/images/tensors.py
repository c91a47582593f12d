"""Pixels to tensors and back, and to the small pictures that tables carry."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:  # who only decodes does without torch
    from torch import Tensor


def square(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Centre square of [H, W, 3], resized with antialiasing to [size, size, 3]."""
    height, width = image.shape[:2]
    side = min(height, width)
    if side == size and height == width:
        return image
    top, left = (height - side) // 2, (width - side) // 2
    box = (left, top, left + side, top + side)
    picture = Image.fromarray(image)
    resized = picture.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return np.asarray(resized)


def square_mask(mask: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    """A mask [H, W] cut and resized as `square` does it with the image, [size, size]."""
    pixels: NDArray[np.uint8] = np.repeat(mask[..., None], 3, 2).astype(np.uint8) * 255
    shown: NDArray[np.bool_] = square(pixels, size)[..., 0] > 127
    return shown


def too_small(image: NDArray[np.uint8], size: int) -> str | None:
    """Why [H, W, 3] can't be shown at size x size; None where it can.

    Enlarging its centre square more than twice would make an image of blur.
    """
    height, width = image.shape[:2]
    if 2 * min(height, width) >= size:
        return None
    return (
        f"the image is {width} x {height} px, too small to be shown at {size} px: "
        f"at least {-(-size // 2)} px a side are needed"
    )


def to_tensor(image: NDArray[np.uint8], size: int | None = None) -> Tensor:
    """[H, W, 3] uint8 -> [3, H, W] float32 in [0, 1]; with `size`, of the centre square."""
    import torch

    pixels = image if size is None else square(image, size)
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float().div_(255)


def to_batch(images: NDArray[np.uint8], rows: NDArray[np.int64] | slice) -> Tensor:
    """Rows of [N, H, W, 3] uint8 -> [B, 3, H, W] float32 in [0, 1], channels last in memory."""
    import torch

    return torch.from_numpy(images[rows]).permute(0, 3, 1, 2).float().div_(255)


def to_pixels(image: Tensor) -> NDArray[np.uint8]:
    """[3, H, W] in [0, 1] -> [H, W, 3] uint8."""
    import torch

    scaled = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    pixels: NDArray[np.uint8] = scaled.permute(1, 2, 0).cpu().numpy()
    return pixels


def to_png(image: NDArray[np.uint8]) -> bytes:
    """[H, W, 3] uint8 as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def thumbnail(image: NDArray[np.uint8], longest: int = 160) -> bytes:
    """[H, W, 3] uint8 as a WebP whose longest side is at most `longest` px."""
    picture = Image.fromarray(image)
    picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="WEBP", quality=88)
    return buffer.getvalue()
