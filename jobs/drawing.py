"""What our figures share: colours, resolution, and PNG files."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure, SubFigure

INK, SOFT, MARK = "#1d2127", "#5c636d", "#b3401f"
DPI = 160


def put(
    figure: Figure | SubFigure,
    pixels: np.ndarray,
    box: tuple[float, float, float, float],
    interpolation: str | None = None,
) -> None:
    """Put an image into a figure: left, bottom, width and height are shares of the figure's."""
    axes = figure.add_axes(box)
    axes.imshow(pixels, interpolation=interpolation)
    axes.axis("off")


def png(figure: Figure) -> bytes:
    """The figure as a PNG, its words letter by letter: names may hold what would be a formula."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # type: ignore[attr-defined]
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white")
    return buffer.getvalue()
