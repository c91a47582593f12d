"""What every index answers, and what the answers of several have in common."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from whylens.errors import UsageError

Rows = NDArray[np.int64]
Scores = NDArray[np.float32]

# Features that are looked at together in an exact pass: 84 MB at D = 1,280.
BLOCK = 16_384


class Searchable(Protocol):
    """A FeatureIndex or a ShardedIndex: features [N, D] of one classifier, an id for each row."""

    @property
    def ids(self) -> tuple[str, ...]:
        """An id for each row."""

    @property
    def fingerprint(self) -> str:
        """The classifier's."""

    @property
    def size(self) -> int:
        """D."""

    def search(
        self,
        queries: NDArray[np.floating],
        count: int,
        *,
        among: NDArray[np.integer] | None = None,
        without: NDArray[np.integer] | None = None,
    ) -> tuple[Scores, Rows]:
        """The rows with the largest inner products with each query."""

    def features(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """Features of some rows, as the index keeps them."""

    def row_of(self, image_id: str) -> int:
        """The row of an image."""


def require_classifier(built_for: str, fingerprint: str, where: str) -> None:
    """Raise UsageError if an index was built for another classifier."""
    if built_for != fingerprint:
        raise UsageError(
            f"the index {where} was built for the classifier {built_for}, this is {fingerprint}: "
            "build it again"
        )


def checked_queries(queries: NDArray[np.floating], size: int) -> Scores:
    asked = np.ascontiguousarray(queries, dtype=np.float32)
    if asked.ndim != 2 or asked.shape[1] != size:
        raise UsageError(f"queries are [Q, {size}] for this index, not {list(asked.shape)}")
    if not np.isfinite(asked).all():
        raise UsageError("a query is not finite")
    return asked


def largest(found: Sequence[tuple[Scores, Rows]], queries: int, count: int) -> tuple[Scores, Rows]:
    """The largest `count` of several searches' answers."""
    scores = np.full((queries, count), -np.inf, np.float32)
    rows = np.full((queries, count), -1, np.int64)
    for more, places in found:
        both = np.concatenate([scores, np.where(places < 0, -np.inf, more)], 1)
        order = np.argsort(-both, axis=1, kind="stable")[:, :count]
        scores = np.take_along_axis(both, order, 1)
        rows = np.take_along_axis(np.concatenate([rows, places], 1), order, 1)
    return scores, rows


def row_of(rows: dict[str, int], image_id: str) -> int:
    if image_id not in rows:
        raise UsageError(f"the index holds no image {image_id!r}")
    return rows[image_id]
