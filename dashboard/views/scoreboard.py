"""Accuracy against spurious score: how much classifiers rely on what is known to be spurious."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from whylens.dashboard.kept import Reading
from whylens.dashboard.saving import save_csv
from whylens.dashboard.view import View
from whylens.dashboard.views.drawing import axis
from whylens.jobs.words import amount

LEADERBOARD, SCORES = "leaderboard", "scores"


def draw(reading: Reading) -> None:
    """The classifiers of a score run: their places, what SpuFix changed, and each class."""
    st.subheader("Scoreboard", anchor=False)
    leaders: list[dict[str, Any]] = reading.run.arrow(LEADERBOARD).to_pylist()
    if not leaders:
        st.info("No classifier has been scored yet: the scores come at the job's end.")
        return
    rows = [with_intervals(row) for row in leaders]
    st.write(
        "The spurious score is the mean average precision with which a class's own images are told "
        "from images that show its spurious feature alone: higher is better. Intervals are 95 %."
    )
    _scatter(rows)
    st.dataframe(
        [
            {
                "#": row["rank"],
                "Classifier": row["classifier"],
                "Spurious score": row["spurious_score"],
                "Accuracy": row["accuracy"],
                "Spurious images called the class": row["spurious_called"],
                "Repaired from": row["base"] or None,
            }
            for row in rows
        ],
        hide_index=True,
        key="leaders",
        column_config={
            name: st.column_config.NumberColumn(format="percent")
            for name in ("Spurious score", "Accuracy", "Spurious images called the class")
        },
    )
    _by_class(reading, [str(row["classifier"]) for row in rows])


def with_intervals(row: dict[str, Any]) -> dict[str, Any]:
    """A classifier's row with 95 % intervals of its accuracy (Wilson's, of the images)."""
    low, high = wilson(row["accuracy"], row["validation_images"])
    return {**row, "accuracy_low": low, "accuracy_high": high}


def wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of `count` images; (0, 1) of none."""
    from scipy.stats import binomtest

    if not count:
        return 0.0, 1.0
    interval = binomtest(round(share * count), count).proportion_ci(0.95, "wilson")
    return float(interval.low), float(interval.high)


def _scatter(rows: Sequence[dict[str, Any]]) -> None:
    """Each classifier with its interval; a line from what was repaired to its repair."""
    by_name = {row["classifier"]: row for row in rows}
    arrows = [
        {
            "accuracy": by_name[row["base"]]["accuracy"],
            "spurious_score": by_name[row["base"]]["spurious_score"],
            "to_accuracy": row["accuracy"],
            "to_score": row["spurious_score"],
        }
        for row in rows
        if row["base"] in by_name and row["base"] != row["classifier"]
    ]
    x = axis("accuracy", title="Accuracy", scale={"zero": False}, axis={"format": "%"})
    y = axis("spurious_score", title="Spurious score", scale={"zero": False}, axis={"format": "%"})
    named = axis("classifier", "nominal", title="Classifier")
    points = [
        {
            "data": {"values": list(rows)},
            "mark": {"type": "rule", "opacity": 0.5},
            "encoding": {"x": axis("accuracy_low"), "x2": {"field": "accuracy_high"}, "y": y},
        },
        {
            "data": {"values": list(rows)},
            "mark": {"type": "point", "filled": True, "size": 90},
            "encoding": {
                "x": x,
                "y": y,
                "color": axis("classifier", "nominal", legend=None),
                "tooltip": [
                    named,
                    axis("accuracy", format=".1%"),
                    axis("spurious_score", format=".1%"),
                ],
            },
        },
        {
            "data": {"values": list(rows)},
            "mark": {"type": "text", "dy": -12, "limit": 180, "color": "#888888"},
            "encoding": {"x": x, "y": y, "text": named},
        },
    ]
    repaired = {
        "data": {"values": arrows},
        "mark": {"type": "rule", "strokeDash": [4, 3], "strokeWidth": 2},
        "encoding": {
            "x": x,
            "y": y,
            "x2": {"field": "to_accuracy"},
            "y2": {"field": "to_score"},
        },
    }
    st.vega_lite_chart({"layer": [*([repaired] if arrows else []), *points], "height": 380})
    if arrows:
        st.caption(f"Dashed: what SpuFix changed, of {amount(len(arrows), 'classifier')}.")


def _by_class(reading: Reading, classifiers: Sequence[str]) -> None:
    columns = ["classifier", "class_name", "average_precision", "accuracy", "spurious_called"]
    scores = reading.kept("scores", (SCORES,), lambda: reading.run.frame(SCORES, columns))
    if not len(scores):
        return
    st.subheader("Classes", anchor=False)
    wide = scores.pivot(index="class_name", columns="classifier", values="average_precision")
    wide = wide[[name for name in classifiers if name in wide]]
    wide.insert(0, "Mean", wide.mean(axis=1))
    shown = wide.sort_values("Mean").rename_axis("Class").reset_index()
    st.caption("Average precision of each class by each classifier, the hardest classes first.")
    bar = st.column_config.ProgressColumn(format="%.2f", min_value=0.0, max_value=1.0)
    st.dataframe(
        shown, hide_index=True, key="by class", column_config=dict.fromkeys(shown.columns[1:], bar)
    )
    save_csv("scores", lambda: shown.to_dict("records"))


VIEW = View(
    "scoreboard",
    "Scoreboard",
    draw,
    "Why",
    5,
    ":material/leaderboard:",
    offered=lambda reading: reading.job == "score",
)
