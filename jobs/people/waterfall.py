"""The waterfall figure: how a logit comes about, bar by bar, with a picture of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from whylens.images.decoding import decode
from whylens.jobs.drawing import INK, SOFT, png, put
from whylens.jobs.people.explanation import Contribution, Explanation
from whylens.jobs.words import percent, plain_name

# Blue and vermilion of Okabe and Ito: told apart with every kind of colour vision.
RAISES, LOWERS, TOTAL = "#0072b2", "#d55e00", "#4a4f57"
LINE = "#d9d6ce"
ROW = 0.62  # inches
MINUS = "\u2212"


@dataclass(frozen=True)
class Step:
    """One bar from `start` to `end`; a total starts at zero, `value` is what it says."""

    label: str
    kind: Literal["total", "component", "rest", "spufix"]
    start: float
    end: float
    value: float
    contribution: Contribution | None = None

    @property
    def spurious(self) -> bool:
        """Whether it is of what counts as spurious."""
        one = self.contribution
        return self.kind == "spufix" or (one is not None and one.spurious)

    @property
    def text(self) -> str:
        """Its value: of a total as it is, of the others with their sign."""
        return plain(self.value) if self.kind == "total" else signed(self.value)


def steps(found: Explanation) -> list[Step]:
    """The bars from the class's mean logit over the contributions to the logit, and SpuFix's."""
    at = found.constant
    bars = [Step(f"mean of {found.class_name} images", "total", 0.0, at, at)]
    for one in found.contributions:
        label = f"component {one.component}"
        bars.append(Step(label, "component", at, at + one.alpha, one.alpha, one))
        at += one.alpha
    rest = f"{found.others} other components, rest" if found.others else "rest"
    bars.append(Step(rest, "rest", at, found.logit, found.rest))
    bars.append(Step(f"logit of {found.class_name}", "total", 0.0, found.logit, found.logit))
    if found.removed > 0:
        bars.append(
            Step("SpuFix takes away", "spufix", found.logit, found.fixed_logit, -found.removed)
        )
        bars.append(Step("logit after SpuFix", "total", 0.0, found.fixed_logit, found.fixed_logit))
    return bars


def signed(value: float) -> str:
    """A contribution with its sign: +1.24, or -0.30 with a real minus."""
    return f"{value:+.2f}".replace("-", MINUS)


def plain(value: float) -> str:
    """A logit, with a real minus."""
    return f"{value:.2f}".replace("-", MINUS)


@dataclass(frozen=True)
class Bar:
    """A step laid out for the page: places in percent of the chart's width."""

    step: Step
    left: float
    width: float
    end: float
    zero: float | None
    side: Literal["left", "right"]
    tone: str


def span(bars: list[Step]) -> tuple[float, float]:
    """The chart's range: all running sums, with room for numbers at both ends.

    Zero is inside, and totals are bars from it, where that leaves the steps most of the width.
    """
    ends = [bar.end for bar in bars] + [bar.start for bar in bars if bar.kind != "total"]
    low, high = min(ends), max(ends)
    margin = max(high - low, 1e-6) * 0.16
    near = margin * 9
    if 0 < low < near:
        return 0.0, high + margin
    if -near < high < 0:
        return low - margin, 0.0
    return low - margin, high + margin


def begin(bar: Step, low: float, high: float) -> float:
    """Where a bar starts; a total far from zero is a mark at its end."""
    if bar.kind != "total":
        return bar.start
    return 0.0 if low <= 0 <= high else bar.end - 0.012 * (high - low)


def laid_out(found: Explanation) -> list[Bar]:
    """The bars for the page."""
    bars = steps(found)
    low, high = span(bars)

    def at(value: float) -> float:
        return round(100 * (min(max(value, low), high) - low) / (high - low), 2)

    made = []
    for bar in bars:
        start, end = at(begin(bar, low, high)), at(bar.end)
        tone = "sum" if bar.kind == "total" else "down" if bar.value < 0 else "up"
        made.append(
            Bar(
                bar,
                min(start, end),
                round(abs(end - start), 2),
                end,
                at(0.0) if low <= 0 <= high else None,
                "right" if end >= start else "left",
                f"{tone} spurious" if bar.spurious else tone,
            )
        )
    return made


def figure(found: Explanation) -> bytes:
    """The waterfall as a PNG: bars, the heat map of each component, exemplars beside."""
    from matplotlib.figure import Figure

    bars = steps(found)
    pictures = 1 + max((len(c.exemplars) for c in found.contributions), default=0)
    left, chart, head, foot = 2.7, 4.6, 1.25, 0.65
    width = left + chart + 0.75 + pictures * (ROW + 0.06) + 0.2
    height = head + len(bars) * ROW + foot
    paper = Figure(figsize=(width, height), dpi=150, facecolor="white")
    axes = paper.add_axes((left / width, foot / height, chart / width, len(bars) * ROW / height))
    _bars(axes, bars)

    def place(column: float, row: int, content: bytes) -> None:
        x, y = left + chart + 0.7 + column * (ROW + 0.06), foot + (len(bars) - 1 - row) * ROW
        side = ROW - 0.06
        box = ((x + 0.02) / width, (y + 0.03) / height, side / width, side / height)
        put(paper, decode(content), box)

    for row, bar in enumerate(bars):
        if bar.contribution is not None:
            place(0, row, bar.contribution.heatmap)
            for column, exemplar in enumerate(bar.contribution.exemplars):
                place(1.15 + column, row, exemplar.thumb)
    columns = left + chart + 0.72
    top = foot + (len(bars) - 1) * ROW + 0.04
    name = plain_name(found.class_name)
    captions = [(columns, "here"), (columns + 1.15 * (ROW + 0.06), f"strongest in {name} images")]
    for x, text in captions[: 1 + (pictures > 1)]:
        paper.text(x / width, top / height, text, color=SOFT, fontsize=8.5, va="bottom")
    box = (0.16 / width, (height - 1.1) / height, 0.95 / width, 0.95 / height)
    put(paper, decode(found.picture), box)
    _title(paper, found, width, height)
    return png(paper)


def _title(paper: Any, found: Explanation, width: float, height: float) -> None:
    name, predicted = plain_name(found.class_name), plain_name(found.predicted)
    title = f"Why {name}?" if predicted == name else f"Why {name}? (predicted: {predicted})"
    before, after = found.changes[0].before, found.changes[0].after
    line = f"{found.classifier}: {name} {percent(before)}, logit {plain(found.logit)}"
    if found.removed > 0:
        line += f"; after SpuFix {percent(after)}"
    x = 1.3 / width
    paper.text(x, (height - 0.5) / height, title, fontsize=16, color=INK, weight="bold")
    paper.text(x, (height - 0.8) / height, line, fontsize=10, color=SOFT)


def _bars(axes: Any, bars: list[Step]) -> None:
    low, high = span(bars)
    for row, bar in enumerate(bars):
        y = len(bars) - 1 - row
        total = bar.kind == "total"
        start = begin(bar, low, high)
        colour = TOTAL if total else RAISES if bar.value >= 0 else LOWERS
        axes.barh(
            y, bar.end - start, left=start, height=0.56, color=colour, zorder=2,
            hatch="////" if bar.spurious else None,
            edgecolor="white" if bar.spurious else colour,
            linewidth=0,
        )  # fmt: skip
        if row + 1 < len(bars):
            axes.plot([bar.end] * 2, [y - 1.28, y + 0.28], color=SOFT, linewidth=0.7, zorder=1)
        rising = bar.end >= start
        axes.annotate(
            bar.text, (bar.end, y), (4 if rising else -4, 0), textcoords="offset points",
            ha="left" if rising else "right", va="center", fontsize=9, color=INK,
            weight="bold" if total else "normal",
        )  # fmt: skip
        _name(axes, bar, y)
    axes.set_xlim(low, high)
    axes.set_ylim(-0.5, len(bars) - 0.5)
    axes.set_yticks([])
    axes.tick_params(axis="x", colors=SOFT, labelsize=8.5, length=0)
    axes.grid(axis="x", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("logit", color=SOFT, fontsize=9)
    for side in axes.spines.values():
        side.set_visible(False)
    if low <= 0 <= high:
        axes.axvline(0, color=SOFT, linewidth=0.9, zorder=1)


def _name(axes: Any, bar: Step, y: int) -> None:
    def say(text: str, below: int, **style: Any) -> None:
        axes.annotate(
            text, (0, y), (-10, -below), xycoords=("axes fraction", "data"),
            textcoords="offset points", ha="right", va="center", **style,
        )  # fmt: skip

    one = bar.contribution
    standing = "" if one is None else one.standing
    words = f": {', '.join(one.words[:2])}" if one is not None and one.words else ""
    weight = "bold" if bar.kind == "total" else "normal"
    say(bar.label + words, -6 if standing else 0, fontsize=9.5, color=INK, weight=weight)
    say(standing, 7, fontsize=8, color=LOWERS if bar.spurious else SOFT)
