"""How hard an approximate index has to look for an asked recall."""

import logging
import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from whylens.neural_pca.index.faiss_kinds import knn, search_parameters_of
from whylens.neural_pca.index.feature_index import FeatureIndex
from whylens.neural_pca.index.searchable import Rows, checked_queries

logger = logging.getLogger(__name__)


def calibrated(
    index: FeatureIndex,
    features: NDArray[np.floating],
    queries: NDArray[np.floating],
    *,
    count: int = 5,
    recall: float = 0.95,
) -> tuple[FeatureIndex, float]:
    """The index with the quickest search that reaches a recall on queries [Q, D]; its recall.

    `features` [N, D] are what the index was filled with, in full precision; recall is the share
    of their exact top `count` that is found. Where no setting reaches it, the best is taken,
    with a warning.
    """
    if index.factory == "Flat":
        return index, 1.0
    asked = checked_queries(queries, index.size)
    exact = np.ascontiguousarray(features, dtype=np.float32)
    _, truth = knn(asked, exact, count)
    tried = []
    for rising in search_parameters_of(index.index):
        for parameters in rising:
            candidate = replace(index, search_parameters=parameters)
            before = time.perf_counter()
            _, rows = candidate.search(asked, count)
            seconds = time.perf_counter() - before
            tried.append((recall_of(rows, truth), seconds, candidate))
            if tried[-1][0] >= recall:
                break  # more of the same is slower
    good = [trial for trial in tried if trial[0] >= recall]
    share, _, best = (
        min(good, key=lambda trial: trial[1]) if good else max(tried, key=lambda trial: trial[0])
    )
    if not good:
        logger.warning(
            "the index %s finds %.0f %% of the exact answers at most, %.0f %% are asked for",
            index.factory,
            100 * share,
            100 * recall,
        )
    return best, share


def recall_of(rows: Rows, truth: Rows) -> float:
    """Share of the true rows [Q, k] among the rows found [Q, k]; -1 is none."""
    hits = (rows[:, :, None] == truth[:, None, :]) & (truth[:, None, :] >= 0)
    return float(hits.any(1).sum() / max(1, (truth >= 0).sum()))
