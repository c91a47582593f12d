"""A run's generated images as one picture: a row of before and after for each use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from whylens.errors import UsageError
from whylens.images.decoding import decode
from whylens.jobs.drawing import DPI, INK, MARK, SOFT, png, put
from whylens.jobs.report.data import load_run
from whylens.jobs.report.part import Pair, RunData, parts
from whylens.runs.storage import Storage
from whylens.settings import Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure


class FigureSpec(Settings):
    """What `whylens figure` takes."""

    runs: list[str] = Field(
        min_length=1, description="Run folders; the first that has images of a use shows it."
    )
    out: str = Field("figure.png", description="PNG to write.")
    columns: int = Field(6, ge=1, le=12, description="Pairs of images in a row, at most.")


@dataclass(frozen=True)
class Row:
    """Pairs of one use."""

    title: str
    what: str
    pairs: tuple[Pair, ...]


def run(spec: FigureSpec) -> str:
    """Draw the runs' rows into the file; its path.

    Raises
    ------
    UsageError
        If there is no such run, or none of the runs has images of any use.
    """
    rows = rows_of([load_run(folder) for folder in spec.runs], spec.columns)
    if not rows:
        raise UsageError(
            f"no generated images in {', '.join(spec.runs)}: run a job that makes or changes "
            "images first, such as counterfactuals"
        )
    folder, _, name = spec.out.replace("\\", "/").rpartition("/")
    storage = Storage(folder or ".")
    storage.write(name, png(draw(rows, spec.columns)))
    return storage.path(name)


def rows_of(runs: Sequence[RunData], columns: int) -> list[Row]:
    """A row for each use of which a run has images that did what was asked of them."""
    uses = [(part, part.use) for part in parts() if part.use]
    rows = []
    for part, use in sorted(uses, key=lambda pair: pair[1].place):
        for run in runs:
            if pairs := spread(use.pairs(run[part]), columns):
                rows.append(Row(use.title, use.what, pairs))
                break
    return rows


def spread(pairs: Iterable[Pair], columns: int) -> tuple[Pair, ...]:
    """Up to `columns` pairs in order, no title twice while there are others."""
    first: dict[str, Pair] = {}
    again = []
    for pair in pairs:
        if pair.title in first:
            again.append(pair)
        else:
            first[pair.title] = pair
    return tuple([*first.values(), *again][:columns])


# Inches: a pair's width and height with its words, and the column of titles.
PAIR, HEIGHT, TITLES = 1.75, 1.45, 1.95


def draw(rows: Sequence[Row], columns: int) -> Figure:
    """The rows under each other, before on the left of each pair and after on its right."""
    from matplotlib.figure import Figure

    most = max(1, *(min(columns, len(row.pairs)) for row in rows))
    width = TITLES + PAIR * most
    figure = Figure(figsize=(width, HEIGHT * len(rows) + 0.1), dpi=DPI)
    strips: Any = figure.subfigures(len(rows), 1, squeeze=False)
    for (strip,), row in zip(strips, rows, strict=True):
        _draw_row(strip, row, width)
    return figure


def _draw_row(strip: SubFigure, row: Row, width: float) -> None:
    strip.text(0.012, 0.62, row.title, fontsize=12, fontweight="bold", color=INK, va="bottom")
    strip.text(0.012, 0.58, row.what, fontsize=7.5, color=SOFT, va="top", linespacing=1.35)
    for place, pair in enumerate(row.pairs):
        left = (TITLES + PAIR * place) / width
        side, gap = (PAIR - 0.18) / 2 / width, 0.03 / width
        for shift, content in ((0.0, pair.before), (side + gap, pair.after)):
            put(strip, decode(content), (left + shift, 0.2, side, 0.6), "lanczos")
        middle = left + side + gap / 2
        strip.text(middle, 0.83, _short(pair.title), fontsize=8, color=INK, ha="center")
        strip.text(middle, 0.08, pair.change, fontsize=7.5, color=MARK, ha="center")


def _short(title: str, longest: int = 26) -> str:
    return title if len(title) <= longest else title[: longest - 1] + "…"
