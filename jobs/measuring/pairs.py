"""Measures by pair of classes, in the form in which the field prints them: FID, sFID, S3, COUT, FR.

Tables of ACE (Jeanneret, Simon and Jurie 2023) and LDCE (Farid et al. 2023) have a block for each
pair of ImageNet's classes, zebra and sorrel, cheetah and cougar, Egyptian and Persian cat; images
of both classes count, each changed to the other one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from whylens.jobs.columns import columns
from whylens.jobs.measuring.evaluation import FEATURES, INCEPTION
from whylens.runs import Table

PAIRS = "pairs"
# Fewer images of a pair have no split halves; of many pairs those with most images are told.
FEWEST, MOST_PAIRS = 4, 12
SCHEMA = pa.schema(
    [
        *columns(pa.string(), "run", "method", "pair"),
        # Whose features FID and sFID are in: a classifier's, or Inception's.
        ("features", pa.string()),
        ("images", pa.int32()),
        *columns(pa.float64(), "fid", "sfid", "s3", "cout", "flip_rate"),
    ]
)
SMALL = ("source_name", "target_name", "made", "flipped", "feature_distance", "cout")


def by_pair(row: Mapping[str, Any], measured: Table, units: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of the table pairs, those with most images first, of a run by its row of evaluation."""
    from whylens.guidance.measures import frechet, split_frechet

    of = measured.read(list(SMALL), units)
    named = np.array(
        [
            " - ".join(sorted((str(source), str(target))))
            for source, target in zip(
                of["source_name"].to_pylist(), of["target_name"].to_pylist(), strict=True
            )
        ],
        dtype=object,
    )
    made = of["made"].to_numpy(zero_copy_only=False)
    found = Counter(named[made].tolist()).most_common(MOST_PAIRS)
    pairs = [pair for pair, count in found if count >= FEWEST]
    if not pairs:
        return []
    which = FEATURES if row["fid"] is None else INCEPTION
    features = measured.read(list(which), units)
    rows = []
    for pair in pairs:
        own, there = pa.array(named == pair), pa.array((named == pair) & made)
        some = of.filter(there)
        before, after = (column.to_pylist() for column in features.filter(there).columns)
        rows.append(
            {
                "run": row["run"],
                "method": row["method"],
                "pair": pair,
                "features": row["independent"] if which is FEATURES else "Inception v3",
                "images": int(pc.sum(own).as_py()),
                "fid": frechet(before, after),
                "sfid": split_frechet(before, after),
                "s3": 1 - pc.mean(some["feature_distance"]).as_py(),
                "cout": pc.mean(some["cout"]).as_py(),
                "flip_rate": pc.mean(of.filter(own)["flipped"]).as_py(),
            }
        )
    return rows
