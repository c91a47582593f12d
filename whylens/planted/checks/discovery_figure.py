"""The discovery check as a picture: what is repaired, and at what cost."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#9a9a94"
NAMES = {
    "spufix_plain": ("formula", GREY),
    "spufix": ("refit", BLUE),
}
SPLITS = {
    "linked": "own feature",
    "neutral": "no planted feature",
    "crossed": "another class's feature",
}


def draw_discovery(record: Mapping[str, Any], path: Path) -> None:
    """Write a PNG of a record of `check_discovery`: accuracies, and recovery against cost."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    bars = [("before", ORANGE, [record[f"spufix.{split}_before"] for split in SPLITS])]
    bars += [
        (f"after SpuFix, {name}", colour, [record[f"{key}.{split}_after"] for split in SPLITS])
        for key, (name, colour) in NAMES.items()
    ]
    for place, (name, colour, values) in enumerate(bars):
        positions = [row + 0.27 * (place - 1) for row in range(len(SPLITS))]
        drawn = left.bar(positions, [100 * v for v in values], 0.25, color=colour, label=name)
        left.bar_label(drawn, fmt="%.0f", fontsize=8, padding=1)
    left.set_xticks(range(len(SPLITS)), list(SPLITS.values()))
    left.set_ylim(0, 118)
    left.set_ylabel("accuracy, %")
    left.set_title("Images that show ...", loc="left")
    left.legend(frameon=False, ncols=3, loc="upper center", fontsize=8)
    points = [(100 * p["linked_drop"], 100 * p["recovered"]) for p in record["curve"]]
    right.plot(*zip(*points, strict=True), "o-", color=BLUE, label="refit, by strength")
    for (x, y), point in zip(points, record["curve"], strict=True):
        right.annotate(
            f"{point['strength']:g}", (x, y), (6, -9), textcoords="offset points", fontsize=8
        )
    for key, marker, name in (
        ("spufix", "*", "refit within its budget"),
        ("spufix_plain", "s", "formula"),
        ("spufix_transfer", "D", "refit of a second architecture"),
    ):
        x, y = 100 * record[f"{key}.linked_drop"], 100 * record[f"{key}.recovered"]
        right.plot(
            [x], [y], marker, color=ORANGE, markersize=11 if marker == "*" else 7, label=name
        )
    right.axvline(2, color=GREY, linewidth=0.8, linestyle=":")
    right.axhline(50, color=GREY, linewidth=0.8, linestyle=":")
    right.set_xlabel("accuracy lost on images with their own feature, points")
    right.set_ylabel("lost accuracy won back, %")
    seeds = len(record["seeds"])
    right.set_title(f"Repair against cost, mean of {seeds} seeds", loc="left")
    right.legend(frameon=False, fontsize=8, loc="lower right")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
