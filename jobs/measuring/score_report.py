"""A score run as one self-contained page, report.html, and its figures as files beside it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pyarrow.compute as pc

from whylens.jobs.drawing import png
from whylens.jobs.measuring.figures import accuracy_against_score, leaderboard, short_names
from whylens.jobs.measuring.tables import LEADERBOARD, SCORES
from whylens.jobs.report.page import publish
from whylens.jobs.report.pictures import data_uri
from whylens.runs import Run

SHOWN = {
    "own": "As each classifier's own library shows them: its resize, cut and interpolation.",
    "published": "As the published code shows them: bicubic, spurious images whole, validation "
    "images resized to 256/224 of the classifier's size and cut.",
}


def write(run: Run, now: datetime | None = None) -> str:
    """Write figures/leaderboard.png, figures/accuracy.png and report.html; the page's path.

    Raises
    ------
    UsageError
        If the run has no leaderboard yet.
    """
    leaders = run.table(LEADERBOARD).read().to_pylist()
    scores = run.table(SCORES).read()
    inside, outside = scores["validation_images"], scores["spurious_images"]
    # The average precision of scores without meaning is the share of the positives.
    chance = pc.mean(pc.divide(pc.cast(inside, "float64"), pc.add(inside, outside))).as_py()
    figures = {
        "leaderboard": png(leaderboard(leaders, chance)),
        "accuracy": png(accuracy_against_score(leaders)),
    }
    for name, content in figures.items():
        run.storage.write(f"figures/{name}.png", content)
    return publish(
        run,
        "score.html.j2",
        now,
        leaders=leaders,
        names=short_names(leaders),
        unscored=_unscored(run.record()["spec"]["classifiers"], leaders),
        hardest=_hardest(scores.to_pylist()),
        chance=chance,
        known=[row for row in leaders if row["published_score"] is not None],
        shown_how=SHOWN[run.record()["spec"].get("transform", "own")],
        figures={n: data_uri(content, "image/png") for n, content in figures.items()},
    )


def _unscored(classifiers: list[str], leaders: list[dict[str, Any]]) -> list[str]:
    scored = {row["classifier"] for row in leaders}
    return [name for name in classifiers if name not in scored]


def _hardest(rows: list[dict[str, Any]], most: int = 20) -> list[dict[str, Any]]:
    """The classes by rising mean score over the classifiers, with each classifier's score."""
    classes: dict[int, dict[str, Any]] = {}
    for row in rows:
        entry = classes.setdefault(
            row["class_index"], {"class_name": row["class_name"], "scores": {}}
        )
        entry["scores"][row["classifier"]] = row["average_precision"]
    found = sorted(
        classes.values(), key=lambda entry: sum(entry["scores"].values()) / len(entry["scores"])
    )
    return found[:most]
