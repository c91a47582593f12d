"""A run's generated images as one picture: a row of before and after for each use."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from whylens.errors import UsageError
from whylens.jobs.drawing import DPI, INK, MARK, SOFT, png
from whylens.jobs.report.data import RunData, load_run
from whylens.jobs.words import percent, plain_name
from whylens.runs.storage import Storage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure


class FigureSpec(BaseModel):
    """What `whylens figure` takes."""

    model_config = ConfigDict(extra="forbid")

    runs: list[str] = Field(
        min_length=1, description="Run folders; the first that has images of a use shows it."
    )
    out: str = Field(description="PNG to write.")
    columns: int = Field(6, ge=1, le=12, description="Pairs of images in a row, at most.")


@dataclass(frozen=True)
class Pair:
    """An image before and after, what the pair is called, and the number that changed, in words."""

    title: str
    before: bytes
    after: bytes
    change: str


@dataclass(frozen=True)
class Row:
    """Pairs of one use."""

    title: str
    what: str
    pairs: tuple[Pair, ...]


def write(spec: FigureSpec) -> str:
    """Draw the runs' rows into the file; its path.

    Raises
    ------
    UsageError
        If there is no such run, or none of the runs has images of any use.
    """
    rows = rows_of([load_run(folder) for folder in spec.runs], spec.columns)
    if not rows:
        raise UsageError(
            f"no generated images in {', '.join(spec.runs)}: run generate, counterfactuals, "
            "disagreements or neurons first"
        )
    folder, _, name = spec.out.replace("\\", "/").rpartition("/")
    storage = Storage(folder or ".")
    storage.write(name, png(draw(rows, spec.columns)))
    return storage.path(name)


def rows_of(runs: Sequence[RunData], columns: int) -> list[Row]:
    """A row for each use of which a run has images that did what was asked of them."""
    rows = []
    for title, what, pairs_of in USES:
        for run in runs:
            if pairs := spread(pairs_of(run), columns):
                rows.append(Row(title, what, pairs))
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


def _counterfactuals(run: RunData) -> Iterable[Pair]:
    for one in run.counterfactuals:
        if one.flipped and one.before and one.after:
            source, target = plain_name(one.source), plain_name(one.target)
            change = f"{percent(one.p_target_before)} → {percent(one.p_target_after)}"
            yield Pair(f"{source} → {target}", one.before, one.after, f"p {change}")


def _disagreements(run: RunData) -> Iterable[Pair]:
    for one in sorted(run.disagreements, key=lambda one: (one.p_b or 0.0) - (one.p_a or 0.0)):
        if one.start_image and one.image and (one.p_a or 0.0) > (one.p_b or 0.0):
            told = f"p {percent(one.p_a)}, other {percent(one.p_b)}"
            yield Pair(plain_name(one.class_name), one.start_image, one.image, told)


def _neurons(run: RunData) -> Iterable[Pair]:
    for neuron in run.neurons:
        for one in neuron.images:
            before, after = one.activation_before, one.activation_after
            if one.before and one.after and before is not None and after is not None:
                word = f", {neuron.word}" if neuron.word else ""
                arrow = {"up": " ↑", "down": " ↓"}.get(one.kind, "")
                told = f"φ {before:.2f} → {after:.2f}"
                yield Pair(f"neuron {neuron.index}{word}{arrow}", one.before, one.after, told)


def _components(run: RunData) -> Iterable[Pair]:
    for finding in run.findings:
        for one in sorted(finding.generated, key=lambda one: -(one.p_class or 0.0)):
            if one.start_image and one.image and (one.alpha or 0.0) > (one.alpha_start or 0.0):
                word = f": {plain_name(finding.guess[0])}" if finding.guess else ""
                title = f"{plain_name(finding.class_name)}{word}"
                change = f"p {percent(one.p_start)} → {percent(one.p_class)}"
                yield Pair(title, one.start_image, one.image, change)


USES: tuple[tuple[str, str, Callable[[RunData], Iterable[Pair]]], ...] = (
    ("Counterfactuals", "a real image, changed until\nthe decision flips", _counterfactuals),
    ("Components", "the spurious feature alone\nraises the class", _components),
    ("Disagreements", "one classifier says the class,\nthe other does not", _disagreements),
    ("Neurons", "what a single feature\nresponds to", _neurons),
)

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
            axes: Axes = strip.add_axes((left + shift, 0.2, side, 0.6))
            axes.imshow(_pixels(content), interpolation="lanczos")
            axes.axis("off")
        middle = left + side + gap / 2
        strip.text(middle, 0.83, _short(pair.title), fontsize=8, color=INK, ha="center")
        strip.text(middle, 0.08, pair.change, fontsize=7.5, color=MARK, ha="center")


def _short(title: str, longest: int = 26) -> str:
    return title if len(title) <= longest else title[: longest - 1] + "…"


def _pixels(content: bytes) -> Any:
    import numpy as np
    from PIL import Image

    with Image.open(io.BytesIO(content)) as opened:
        return np.asarray(opened.convert("RGB"))
