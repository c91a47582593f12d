"""Predictions to the tables scores and leaderboard."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from whylens.errors import WhylensError
from whylens.jobs.columns import columns
from whylens.jobs.measuring.published import published
from whylens.jobs.measuring.sides import SIDES, Contender
from whylens.neural_pca.spurious_score import (
    joint_separation,
    mean_separation,
    spurious_scores,
)
from whylens.runs import Run

PREDICTIONS, SCORES, LEADERBOARD = "predictions", "scores", "leaderboard"
PREDICTION = pa.schema(
    [
        *columns(pa.string(), "classifier", "side", "id"),
        *columns(pa.int32(), "class_index", "component"),
        ("p", pa.float64()),
        ("predicted", pa.int32()),
    ]
)
SCORE = pa.schema(
    [
        ("classifier", pa.string()),
        ("class_index", pa.int32()),
        ("class_name", pa.string()),
        *columns(pa.float64(), "average_precision", "roc_auc"),
        *columns(pa.int32(), "validation_images", "spurious_images"),
        *columns(pa.float64(), "accuracy", "p_validation", "p_spurious", "spurious_called"),
    ]
)
LEADER = pa.schema(
    [
        ("rank", pa.int32()),
        *columns(pa.string(), "classifier", "base"),
        *columns(pa.float64(), "spurious_score", "roc_auc", "joint_score"),
        *columns(pa.float64(), "accuracy", "spurious_called"),
        # Of Spurious ImageNet's published table; null for what isn't in it, or other images.
        *columns(pa.float64(), "published_score", "published_accuracy"),
        *columns(pa.int32(), "classes", "validation_images", "spurious_images"),
    ]
)


def tabulate(
    run: Run,
    contenders: Sequence[Contender],
    space: Sequence[str],
    failed: Collection[int],
    is_published: bool = False,
) -> None:
    """The tables scores and leaderboard of what was predicted.

    `is_published` says that the spurious images are those of the published data set, to whose table
    scores can be compared. `failed` are the places of classifiers of which units are missing: they
    get no score, since it would be one of other images.
    """
    if len(failed) == len(contenders):
        raise WhylensError("no classifier could be scored: run.json's warnings say why")
    predictions = run.table(PREDICTIONS).read()
    leaders = []
    for index, contender in enumerate(contenders):
        if index in failed:
            continue
        rows, leader = score_classifier(predictions, contender, space)
        run.table(SCORES).write(f"{index:03d}", pa.Table.from_pylist(rows, schema=SCORE))
        if is_published and (known := published(contender.name, contender.base)) is not None:
            leader["published_score"] = known.score
            if known.accuracy is not None:
                leader["published_accuracy"] = known.accuracy / 100
        leaders.append(leader)
    leaders.sort(key=lambda row: -row["spurious_score"])
    ranked = [{"rank": rank, **row} for rank, row in enumerate(leaders, 1)]
    run.table(LEADERBOARD).write("all", pa.Table.from_pylist(ranked, schema=LEADER))


def score_classifier(
    predictions: pa.Table, contender: Contender, space: Sequence[str]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A classifier's rows of the table scores, and its row of the leaderboard without a rank."""
    own = predictions.filter(pc.equal(predictions["classifier"], contender.name))
    (labels, p, called), (spurious_for, spurious_p, spurious_called) = (
        [seen[name].to_numpy() for name in ("class_index", "p", "predicted")]
        for seen in (own.filter(pc.equal(own["side"], side)) for side in SIDES)
    )
    scores = spurious_scores(p, labels, spurious_p, spurious_for)
    mean = mean_separation(scores)
    rows = []
    for k, score in scores.items():
        inside, outside = labels == k, spurious_for == k
        rows.append(
            {
                "classifier": contender.name,
                "class_index": k,
                "class_name": space[k],
                "average_precision": score.average_precision,
                "roc_auc": score.roc_auc,
                "validation_images": int(inside.sum()),
                "spurious_images": int(outside.sum()),
                "accuracy": float((called[inside] == k).mean()),
                "p_validation": float(p[inside].mean()),
                "p_spurious": float(spurious_p[outside].mean()),
                "spurious_called": float((spurious_called[outside] == k).mean()),
            }
        )
    leader = {
        "classifier": contender.name,
        "base": contender.base,
        "spurious_score": mean.average_precision,
        "roc_auc": mean.roc_auc,
        "joint_score": joint_separation(p, labels, spurious_p, spurious_for).average_precision,
        "accuracy": float((called == labels).mean()),
        "spurious_called": float((spurious_called == spurious_for).mean()),
        "classes": len(scores),
        "validation_images": len(labels),
        "spurious_images": len(spurious_for),
    }
    return rows, leader
