"""A finding or a counterfactual as one picture, to be sent: its images and what is said of it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from whylens.jobs.drawing import DPI, INK, MARK, SOFT, put
from whylens.jobs.report.parts.counterfactuals import Counterfactual
from whylens.jobs.report.parts.finding import Exemplar, Finding, verdict
from whylens.jobs.report.parts.findings import evidence
from whylens.jobs.report.pictures import UNREADABLE, decoded
from whylens.jobs.words import article, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Images in a strip, at most.
MOST = 6
# Inches: an image's side, the gap beside it, a title, captions, the column of words, the margin.
SIDE, GAP, TITLE, CAPTION, WORDS, MARGIN = 1.1, 0.06, 0.22, 0.32, 3.3, 0.25
# Characters and inches of a line of words, pixels of an image.
LETTERS, LINE, PIXELS = 50, 0.158, 256


@dataclass(frozen=True)
class Strip:
    """Images in columns, each under the other, with a caption below each column."""

    title: str
    columns: tuple[tuple[tuple[bytes | None, ...], str], ...]

    @property
    def deep(self) -> int:
        """How many images stand under each other."""
        return max(len(images) for images, _ in self.columns)


@dataclass(frozen=True)
class Card:
    """What stands on the picture."""

    above: str
    title: str
    mark: str
    sentences: tuple[str, ...]
    strips: tuple[Strip, ...]


def finding_card(finding: Finding, most: int = MOST) -> Card:
    """A finding, or another component: its evidence beside its images."""
    name = finding.class_name
    own = f"{name.capitalize()} images in which it is strongest"
    others = f"Images without {article(name)} in which it is strongest"
    made = tuple(
        ((one.start_image, one.image), f"{percent(one.p_start)} → {percent(one.p_class)}")
        for one in finding.generated[:most]
        if one.image
    )
    return Card(
        f"Finding {finding.rank}" if finding.rank else f"Component {finding.component}",
        f"{name}: {', '.join(finding.guess[:2])}" if finding.guess else name,
        verdict(finding).value,
        tuple(evidence(finding)),
        _filled(
            _exemplars(own, finding.exemplars[:most]),
            _exemplars(others, finding.mined[:most]),
            Strip("Generated: a plain image, and the feature raised in it", made),
        ),
    )


def counterfactual_card(row: Counterfactual, most: int = MOST) -> Card:
    """A counterfactual: before, after and the difference, and how it came about."""
    of_change = (
        ((row.before,), "before"),
        ((row.after,), "after"),
        ((row.difference,), "difference"),
    )
    steps = row.optimisation.trajectory
    wanted = np.linspace(0, len(steps) - 1, min(most, len(steps))).round().astype(int)
    said = [
        f"{one.classifier}: {one.class_name} {percent(one.before)} → {percent(one.after)}"
        for one in row.optimisation.opinions
    ] or [
        f"{row.source} {percent(row.p_source_before)} → {percent(row.p_source_after)}",
        f"{row.target} {percent(row.p_target_before)} → {percent(row.p_target_after)}",
    ]
    film = tuple(((steps[i][1],), f"step {steps[i][0]}") for i in wanted.tolist())
    return Card(
        row.image_id,
        f"{row.source} → {row.target}",
        "flipped" if row.flipped else "failed" if not row.after else "not flipped",
        (*said, row.failed) if row.failed else tuple(said),
        _filled(
            Strip("What changed", tuple(one for one in of_change if one[0][0])),
            Strip("Step by step", film if len(film) > 1 else ()),
        ),
    )


def _exemplars(title: str, images: Sequence[Exemplar]) -> Strip:
    heat = any(one.heatmap for one in images)
    return Strip(
        f"{title}, and where it is seen" if heat else title,
        tuple(
            ((one.thumb, one.heatmap) if heat else (one.thumb,), percent(one.p_class))
            for one in images
        ),
    )


def _filled(*strips: Strip) -> tuple[Strip, ...]:
    return tuple(strip for strip in strips if strip.columns)


def drawn(card: Card) -> Figure:
    """The card: its words on the left, its strips under each other on the right."""
    from matplotlib.figure import Figure

    lines = [line for text in card.sentences for line in (*textwrap.wrap(text, LETTERS), "")]
    title = textwrap.wrap(card.title, 26)
    tall = sum(TITLE + strip.deep * (SIDE + GAP) + CAPTION for strip in card.strips)
    words_tall = 0.6 + 0.28 * len(title) + LINE * len(lines)
    height = max(tall, words_tall) + 2 * MARGIN
    widest = max((len(strip.columns) for strip in card.strips), default=0)
    width = 2 * MARGIN + WORDS + widest * (SIDE + GAP)
    figure = Figure(figsize=(width, height), dpi=DPI)

    def write(x: float, y: float, text: str, size: float, colour: str, **options: Any) -> None:
        """Text whose upper left corner is so many inches from the figure's."""
        figure.text(
            x / width, 1 - y / height, text, fontsize=size, color=colour, va="top", **options
        )

    at = MARGIN
    write(MARGIN, at, card.above, 8, SOFT)
    for line in title:
        write(MARGIN, at + 0.2, line, 14, INK, fontweight="bold")
        at += 0.28
    write(MARGIN, at + 0.24, card.mark, 9, MARK, fontweight="bold")
    for place, line in enumerate(lines):
        write(MARGIN, at + 0.55 + LINE * place, line, 8, INK)
    at = MARGIN
    for strip in card.strips:
        write(MARGIN + WORDS, at, strip.title, 8.5, INK, fontweight="bold")
        for column, (images, caption) in enumerate(strip.columns):
            x = MARGIN + WORDS + column * (SIDE + GAP)
            for row, content in enumerate(images):
                low = at + TITLE + row * (SIDE + GAP) + SIDE
                box = (x / width, 1 - low / height, SIDE / width, SIDE / height)
                put(figure, _pixels(content), box, "lanczos")
            write(x, at + TITLE + strip.deep * (SIDE + GAP), caption, 7.5, SOFT)
        at += TITLE + strip.deep * (SIDE + GAP) + CAPTION
    return figure


def _pixels(content: bytes | None) -> np.ndarray:
    """A stored picture [H, W, 3] no larger than it is drawn; grey where it can't be read."""
    try:
        image, _ = decoded(content or b"")
    except UNREADABLE:
        return np.full((8, 8, 3), 235, np.uint8)
    image.thumbnail((PIXELS, PIXELS), Image.Resampling.LANCZOS)
    return np.asarray(image)
