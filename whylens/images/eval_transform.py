"""How a classifier is shown a photograph: its library's evaluation transform, pixel by pixel.

timm, torchvision, open_clip and transformers all resize an image with Pillow and cut a square from
its middle. They differ in what is resized to what, and by how little the cut is smaller.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from whylens.errors import UsageError
from whylens.images.tensors import square

Fit = Literal["shortest", "longest", "squash", "square"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "hamming", "box"]
INTERPOLATIONS: tuple[Interpolation, ...] = (
    "nearest", "bilinear", "bicubic", "lanczos", "hamming", "box"
)  # fmt: skip


@dataclass(frozen=True)
class EvalTransform:
    """Resize [H, W, 3] with antialiasing, then cut (or pad) it to a centred square.

    Attributes
    ----------
    size
        Side of the square, in pixels.
    scale
        What the side named by `fit` becomes, in pixels: a margin of (scale - size) / 2 is cut off.
    fit
        `shortest` keeps the shape and loses what sticks out; `longest` keeps the shape and pads;
        `squash` makes both sides `scale` long; `square` cuts the centre square first, and resizes
        that to `size`.
    interpolation
        Of the resize.
    fill
        Levels [0, 255] of red, green and blue where an image is padded.
    half
        Where the middle lies between two pixels: `even` takes the even one (timm, torchvision,
        open_clip), `lower` the lower (transformers).
    """

    size: int
    scale: int
    fit: Fit = "shortest"
    interpolation: Interpolation = "bicubic"
    fill: tuple[int, int, int] = (0, 0, 0)
    half: Literal["even", "lower"] = "even"

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """[H, W, 3] uint8 -> [size, size, 3] uint8."""
        if self.fit == "square":
            return square(image, self.size)
        height, width = self._resized(*image.shape[:2])
        if image.shape[:2] != (height, width):
            kind = Image.Resampling[self.interpolation.upper()]
            image = np.asarray(Image.fromarray(image).resize((width, height), kind))
        return self._cut(image, self.fill)

    def mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A mask [H, W] as the image that it belongs to, [size, size]; False where it is padded."""
        pixels: NDArray[np.uint8] = np.repeat(mask[..., None], 3, 2).astype(np.uint8) * 255
        shown: NDArray[np.bool_] = replace(self, fill=(0, 0, 0))(pixels)[..., 0] > 127
        return shown

    def at(self, size: int) -> EvalTransform:
        """The same view at another resolution."""
        return replace(self, size=size, scale=round(self.scale * size / self.size))

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after the resize, rounded as the libraries round them."""
        if self.fit == "squash":
            return self.scale, self.scale
        if self.fit == "longest":
            ratio = max(height / self.scale, width / self.scale)
            return max(1, round(height / ratio)), max(1, round(width / ratio))
        if width <= height:
            return int(self.scale * height / width), self.scale
        return self.scale, int(self.scale * width / height)

    def _cut(self, image: NDArray[np.uint8], fill: tuple[int, int, int]) -> NDArray[np.uint8]:
        lacking = [max(0, self.size - side) for side in image.shape[:2]]
        if any(lacking):
            (top, bottom), (left, right) = ((gap // 2, (gap + 1) // 2) for gap in lacking)
            height, width = image.shape[0] + top + bottom, image.shape[1] + left + right
            padded: NDArray[np.uint8] = np.empty((height, width, 3), np.uint8)
            padded[:] = fill
            padded[top : height - bottom, left : width - right] = image
            image = padded
        top, left = (self._start(side - self.size) for side in image.shape[:2])
        return np.ascontiguousarray(image[top : top + self.size, left : left + self.size])

    def _start(self, gap: int) -> int:
        return round(gap / 2) if self.half == "even" else gap // 2


def require_square(height: int, width: int, name: str) -> None:
    """That a model looks at squares.

    Raises
    ------
    UsageError
        If it looks at anything else.
    """
    if height != width:
        raise UsageError(
            f"{name} looks at images of {width} x {height} px: they have to be squares"
        )
