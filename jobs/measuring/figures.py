"""The leaderboard, and the score against accuracy with arrows to SpuFix, as figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from whylens.jobs.drawing import DPI, INK, MARK, SOFT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINE = "#e2dfd7"
BAR, FIXED = "#2d5f9e", "#23663f"
Leader = Mapping[str, Any]


def short_names(leaders: Sequence[Leader]) -> dict[str, str]:
    """A name for people for each classifier; the whole name where two would be the same."""
    short = {row["classifier"]: _short(row["classifier"], row.get("base")) for row in leaders}
    shown = list(short.values())
    return {name: s if shown.count(s) == 1 else name for name, s in short.items()}


def _short(name: str, base: str | None) -> str:
    if base:
        return f"{_short(base, None)} + SpuFix"
    scheme, _, rest = name.partition(":")
    path = rest.partition("?")[0]
    return PurePosixPath(path).stem if scheme == "checkpoint" else path


def leaderboard(leaders: Sequence[Leader], chance: float) -> Figure:
    """Bars of the spurious score, best first, the ROC AUC as a mark.

    `chance` is the average precision of a classifier that knows nothing, in [0, 1].
    """
    from matplotlib.figure import Figure

    names = short_names(leaders)
    figure = Figure(figsize=(8, 1.35 + 0.42 * len(leaders)), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    places = range(len(leaders))
    scores = [100 * row["spurious_score"] for row in leaders]
    colours = [FIXED if row.get("base") else BAR for row in leaders]
    axes.barh(places, scores, color=colours, height=0.62)
    auc = [100 * row["roc_auc"] for row in leaders]
    axes.plot(auc, places, "|", color=MARK, markersize=15, markeredgewidth=2.2, label="ROC AUC")
    for place, score in zip(places, scores, strict=True):
        axes.text(1.2, place, f"{score:.0f}", va="center", color="white", fontweight="bold")
    axes.axvline(100 * chance, color=SOFT, linestyle=":", linewidth=1.4, label="chance")
    axes.set_yticks(list(places), [names[row["classifier"]] for row in leaders], color=INK)
    axes.invert_yaxis()
    axes.set_xlim(0, 101)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("spurious score: mean average precision, %", color=SOFT)
    axes.grid(axis="x", color=LINE)
    _plain(axes)
    figure.legend(loc="outside upper right", ncols=2, frameon=False, labelcolor=SOFT)
    return figure


def accuracy_against_score(leaders: Sequence[Leader]) -> Figure:
    """Each classifier as a point, an arrow from it to its SpuFix version."""
    from matplotlib.figure import Figure

    names = short_names(leaders)
    points = {
        row["classifier"]: (100 * row["accuracy"], 100 * row["spurious_score"]) for row in leaders
    }
    figure = Figure(figsize=(8, 6), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    for row in leaders:
        x, y = points[row["classifier"]]
        colour, face = (FIXED, "white") if row.get("base") else (BAR, BAR)
        axes.plot(x, y, "o", ms=8, color=colour, markerfacecolor=face, mew=2, zorder=3)
    _limits(axes, list(points.values()))
    for row in leaders:
        if row.get("base") in points:
            _arrow(axes, points[row["base"]], points[row["classifier"]])
    axes.set_xlabel("accuracy on the validation images, %", color=SOFT)
    axes.set_ylabel("spurious score: mean average precision, %", color=SOFT)
    axes.grid(color=LINE)
    _plain(axes)
    # A version whose arrow starts at its base is named by it.
    labelled = [row["classifier"] for row in leaders if row.get("base") not in points]
    _label(figure, axes, {n: points[n] for n in labelled}, list(points.values()), names)
    if any(row.get("base") for row in leaders):
        for marker, colour, text in ((BAR, BAR, "classifier"), ("white", FIXED, "with SpuFix")):
            axes.plot([], [], "o", color=colour, markerfacecolor=marker, mew=2, label=text)
        figure.legend(loc="outside upper right", ncols=2, frameon=False, labelcolor=SOFT)
    return figure


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """From a classifier to its SpuFix version; none where their marks touch."""
    (x0, y0), (x1, y1) = axes.transData.transform([start, end])
    apart = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5 * 72 / DPI
    if apart > 12:
        style = {"arrowstyle": "-|>", "color": FIXED, "linewidth": 1.8, "mutation_scale": 12}
        shrink = {"shrinkA": 5, "shrinkB": 5}
        axes.annotate("", xy=end, xytext=start, arrowprops={**style, **shrink})


def _limits(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    """Room around the points, at least ten points of a percent, within 0 and 100 with a margin."""
    from matplotlib.ticker import MaxNLocator

    for values, limit, axis in (
        ([x for x, _ in points], axes.set_xlim, axes.xaxis),
        ([y for _, y in points], axes.set_ylim, axes.yaxis),
    ):
        middle, span = (min(values) + max(values)) / 2, max(10.0, max(values) - min(values))
        low, high = max(-2.0, middle - 0.7 * span), min(102.0, middle + 0.7 * span)
        limit(low, high)
        ticks = MaxNLocator(nbins=8, integer=True, steps=[1, 2, 5, 10]).tick_values(low, high)
        axis.set_ticks([tick for tick in ticks if max(0, low) <= tick <= min(100, high)])


def _label(
    figure: Figure,
    axes: Axes,
    wanted: Mapping[str, tuple[float, float]],
    points: Sequence[tuple[float, float]],
    names: Mapping[str, str],
) -> None:
    """Names beside points, covering neither another name nor a point where there is room."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.transforms import Bbox

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    frame = axes.get_window_extent()
    pixels = axes.transData.transform(points)
    taken = [Bbox.from_bounds(x - 9, y - 9, 18, 18) for x, y in pixels]
    style: Any = {"textcoords": "offset points", "va": "center", "fontsize": 9, "color": INK}
    sides = [(9, 0, "left"), (-9, 0, "right"), (0, 11, "center"), (0, -11, "center")]
    sides += [(8, 11, "left"), (8, -11, "left"), (-8, 11, "right"), (-8, -11, "right")]
    for name, point in wanted.items():
        best = None
        for dx, dy, align in sides:
            text = axes.annotate(names[name], point, xytext=(dx, dy), ha=align, **style)
            box = text.get_window_extent(canvas.get_renderer())
            covered = sum(box.overlaps(other) for other in taken)
            outside = not (frame.x0 <= box.x0 and box.x1 <= frame.x1)
            if best is None or (covered + 9 * outside) < best[0]:
                if best is not None:
                    best[1].remove()
                best = (covered + 9 * outside, text, box)
            else:
                text.remove()
        if best is not None:
            taken.append(best[2])


def _plain(axes: Axes) -> None:
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=INK)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
