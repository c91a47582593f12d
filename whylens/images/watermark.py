"""Images with and without a watermark, on which many ImageNet classifiers say "carton".

Li et al., "A Whac-A-Mole Dilemma", 2023 (ImageNet-W): a line of six thin, white, half transparent
characters across the picture. Theirs are Chinese, in a font of their own. Here they are signs of a
few strokes, unless a font is named: then they are the paper's words in that font.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from whylens.errors import UsageError
from whylens.images.collection import ImageCollection
from whylens.images.listing import ImageRecord

# What the ids of watermarked images end in.
MARK = "#watermark"
TEXT = "捷径捷径捷径"
# In parts of the side of what classifiers see: size of a character, left and upper edge.
CHARACTER, LEFT, TOP = 1 / 6.22, 0.01, 0.4
OPACITY = 0.5
# Classifiers see the middle square, and mostly cut a margin off it: this part is left.
SEEN = 0.875
# Signs of strokes (x, y, x, y) in a square of side 1, and how thick a stroke is.
SIGNS = (
    ((0.1, 0.3, 0.9, 0.3), (0.5, 0.08, 0.5, 0.92), (0.5, 0.3, 0.12, 0.8), (0.5, 0.3, 0.88, 0.8)),
    ((0.12, 0.12, 0.88, 0.12), (0.2, 0.12, 0.2, 0.9), (0.8, 0.12, 0.8, 0.9), (0.2, 0.5, 0.8, 0.5),
     (0.5, 0.5, 0.5, 0.9)),
)  # fmt: skip
STROKE = 0.045
# Strokes are drawn so many times larger, then made smaller: smooth edges.
FINER = 4


class WatermarkedCollection(ImageCollection):
    """watermarked:COLLECTION[?font=FILE]: every image of another, without and with a watermark.

    The attribute `watermark` tells them apart.
    """

    def __init__(self, uri: str, inner: ImageCollection, font: str | None) -> None:
        if font is not None:
            try:
                ImageFont.truetype(font)
            except OSError as error:
                raise UsageError(f"{uri}: the font {font} can't be read: {error}") from None
        self.uri, self._inner, self._font = uri, inner, font
        self.records, self.rejected = inner.records.twice(MARK), inner.rejected

    def load(self, record: ImageRecord) -> NDArray[np.uint8]:
        image = self._inner.load(_plain(record))
        return watermarked(image, self._font) if record.id.endswith(MARK) else image

    def object_mask(self, record: ImageRecord) -> NDArray[np.bool_] | None:
        return self._inner.object_mask(_plain(record))

    def attributes(self) -> Mapping[str, list[str]]:
        ids = self.records.ids().to_pylist()
        return {"watermark": ["yes" if one.endswith(MARK) else "no" for one in ids]}


def watermarked(image: NDArray[np.uint8], font: str | None = None) -> NDArray[np.uint8]:
    """[H, W, 3] uint8 with the watermark across the middle of what classifiers see of it."""
    height, width = image.shape[:2]
    side = SEEN * min(height, width)
    left, top = (width - side) / 2 + LEFT * side, (height - side) / 2 + TOP * side
    cover = Image.new("L", (width, height))
    if font is None:
        _draw_signs(cover, left, top, CHARACTER * side)
    else:
        letters = ImageFont.truetype(font, round(CHARACTER * side))
        ImageDraw.Draw(cover).text((left, top), TEXT, fill=255, font=letters)
    part = OPACITY * np.asarray(cover, np.float64)[..., None] / 255
    whiter: NDArray[np.uint8] = np.round(image + part * (255 - image)).astype(np.uint8)
    return whiter


def _draw_signs(cover: Image.Image, left: float, top: float, size: float) -> None:
    """Lay six signs onto an image of how far it is covered, [0, 255]."""
    fine = Image.new("L", (round(6 * size * FINER), round(size * FINER)))
    pen, scale = ImageDraw.Draw(fine), size * FINER
    for place in range(6):
        for x, y, to_x, to_y in SIGNS[place % 2]:
            ends = ((place + x) * scale, y * scale, (place + to_x) * scale, to_y * scale)
            pen.line(ends, fill=255, width=max(round(STROKE * scale), FINER))
    strip = fine.resize((max(round(6 * size), 1), max(round(size), 1)), Image.Resampling.BOX)
    cover.paste(strip, (round(left), round(top)))


def _plain(record: ImageRecord) -> ImageRecord:
    return replace(record, id=record.id.removesuffix(MARK))
