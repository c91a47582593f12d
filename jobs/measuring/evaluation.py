"""Measures of single images to the table evaluation: a row for each run of counterfactuals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from whylens.jobs.columns import columns
from whylens.neural_pca.moments import Moments
from whylens.runs import Table
from whylens.runs.lineage import Lineage

MEASURED, EVALUATION = "measured", "evaluation"
COUNTERFACTUALS = "counterfactuals"
FEATURES = ("features_before", "features_after")
INCEPTION = ("inception_before", "inception_after")
# Of one image; a run's are the means over the images that have it.
MEASURES = ("l1", "l2", "feature_distance", "lpips", "cout", "change_inside", "change_outside")
# Parts whose features are in memory together: some hundred images.
PARTS = 64
IMAGE = pa.schema(
    [
        *columns(pa.string(), "run", "image_id", "source_name", "target_name"),
        # Whether there is an image after, which all that follows is of.
        *columns(pa.bool_(), "made", "flipped"),
        *columns(pa.float64(), "p_target", *MEASURES),
        # By judge: the class that it says, and the target's, if it has that class.
        *columns(pa.list_(pa.int32()), "said_before", "said_after", "target_classes"),
        # Of the independent classifier, for the Frechet distance.
        *columns(pa.list_(pa.float32()), *FEATURES),
        # Of Inception, where its weights are named.
        *columns(pa.list_(pa.float32()), *INCEPTION),
    ]
)
OPINION = pa.struct([("judge", pa.string()), *columns(pa.float64(), "target", "kept")])
SCHEMA = pa.schema(
    [
        *columns(pa.string(), "run", "method", "classifier", "independent"),
        *columns(pa.int32(), "images", "failed"),
        *columns(pa.float64(), "flip_rate", "target_probability", *MEASURES, "frechet", "sfid"),
        # In Inception's features; between counterfactuals of one image.
        *columns(pa.float64(), "fid", "inception_sfid", "diversity"),
        # Cosine of features before and after; the stage's time over its images, and what an image
        # of its largest unit held at once.
        *columns(pa.float64(), "s3", "seconds", "memory_mb"),
        ("attributes", pa.list_(OPINION)),
    ]
)


def evaluated(
    lineage: Lineage, independent: str, judges: Sequence[str], measured: Table, units: Sequence[str]
) -> dict[str, Any]:
    """The row of a run whose images are measured in these parts of the table `measured`."""
    rows = measured.read([n for n in IMAGE.names if n not in FEATURES + INCEPTION], units)
    made = rows.filter(rows["made"])
    settings = lineage.setting("counterfactuals") or {}
    found: dict[str, Any] = {
        "run": lineage.runs[0].folder,
        # Runs from before there were others have no such setting.
        "method": settings.get("method", "uvce"),
        "classifier": lineage.setting("classifier"),
        "independent": independent,
        "images": len(rows),
        "failed": len(rows) - len(made),
        "flip_rate": pc.mean(rows["flipped"]).as_py(),
        **cost(lineage, len(rows)),
    }
    if not len(made):
        return found
    targets, was, now = (
        np.asarray(made[name].to_pylist(), dtype=float)
        for name in ("target_classes", "said_before", "said_after")
    )  # [N, judges], NaN where a judge has no such class
    return {
        **found,
        "target_probability": pc.mean(made["p_target"]).as_py(),
        **{name: pc.mean(made[name]).as_py() for name in MEASURES},
        "s3": 1 - pc.mean(made["feature_distance"]).as_py(),
        "frechet": frechet(measured, units, FEATURES),
        "sfid": sfid(measured, units, FEATURES),
        "fid": frechet(measured, units, INCEPTION),
        "inception_sfid": sfid(measured, units, INCEPTION),
        "diversity": diversity(measured, units),
        "attributes": [
            {"judge": judge, **opinion(targets[:, place], was[:, place], now[:, place])}
            for place, judge in enumerate(judges)
        ],
    }


def opinion(targets: np.ndarray, was: np.ndarray, now: np.ndarray) -> dict[str, float | None]:
    """How often a judge sees the target, where it has that class, and says the same as before."""
    known = ~np.isnan(targets)
    seen = float((now == targets)[known].mean()) if known.any() else None
    return {"target": seen, "kept": float((was == now).mean())}


def frechet(measured: Table, units: Sequence[str], which: Sequence[str]) -> float | None:
    """Frechet distance between the features before and after, the columns `which`.

    None of fewer than two images that have them.
    """
    from whylens.guidance.measures import frechet_of_gaussians

    both = [Moments.empty(0), Moments.empty(0)]
    for start in range(0, len(units), PARTS):
        block = measured.read(list(which), units[start : start + PARTS])
        for place, column in enumerate(block.columns):
            if len(vectors := column.drop_null().to_numpy()):
                both[place] = both[place].merge(Moments.of(np.stack(vectors)))
    if both[0].count < 2:
        return None
    gaussians = ((of.mean, of.scatter / (of.count - 1)) for of in both)
    return frechet_of_gaussians(*next(gaussians), *next(gaussians))


def sfid(measured: Table, units: Sequence[str], which: Sequence[str]) -> float | None:
    """Frechet distance of split halves, before against after, by the columns `which`.

    None of fewer than four images that have them.
    """
    from whylens.guidance.measures import split_frechet

    both = measured.read(list(which), units)
    before, after = (column.drop_null().to_pylist() for column in both.columns)
    return split_frechet(before, after) if len(before) >= 4 else None


def diversity(measured: Table, units: Sequence[str]) -> float | None:
    """How far counterfactuals of one image to one class are apart; None where there is one each."""
    from whylens.guidance import measures

    rows = measured.read(["image_id", "target_name", FEATURES[1]], units)
    rows = rows.filter(pc.is_valid(rows[FEATURES[1]]))
    of = list(zip(*(rows[name].to_pylist() for name in ("image_id", "target_name")), strict=True))
    return measures.diversity(rows[FEATURES[1]].to_pylist(), of) if len(set(of)) < len(of) else None


def cost(lineage: Lineage, images: int) -> dict[str, float | None]:
    """Seconds and megabytes an image of the counterfactuals' stage, where its run noted them."""
    record = lineage.holder(COUNTERFACTUALS).record()
    spent = record.get("timings", {}).get(COUNTERFACTUALS)
    held = record.get("memory", {}).get(COUNTERFACTUALS)
    return {
        "seconds": None if spent is None else spent / images,
        "memory_mb": None if not held else held["needed"] / held["problems"] / 1e6,
    }
