"""One index of many parts: a collection's shards, which many workers build."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from whylens.errors import UsageError
from whylens.neural_pca.index.feature_index import FeatureIndex
from whylens.neural_pca.index.searchable import (
    Rows,
    Scores,
    checked_queries,
    largest,
    require_classifier,
    row_of,
)


@dataclass(frozen=True)
class ShardedIndex:
    """Shards of one collection, searched one after the other; rows count through all of them."""

    shards: tuple[FeatureIndex, ...]

    def __post_init__(self) -> None:
        """Refuse shards that do not belong together.

        Raises
        ------
        UsageError
            If there are none, or they differ in the classifier or the features' size.
        """
        if not self.shards:
            raise UsageError("an index of no shards holds nothing: give it images")
        for shard in self.shards[1:]:
            require_classifier(shard.fingerprint, self.fingerprint, "of a shard")
            if shard.size != self.size:
                raise UsageError(
                    f"the index's shards hold features of {self.size} and of {shard.size} values"
                )

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """All shards' ids, in order."""
        return tuple(name for shard in self.shards for name in shard.ids)

    @cached_property
    def offsets(self) -> Rows:
        """The first row of each shard, and N."""
        return np.cumsum([0, *(len(shard.ids) for shard in self.shards)], dtype=np.int64)

    @property
    def fingerprint(self) -> str:
        """The classifier's."""
        return self.shards[0].fingerprint

    @property
    def size(self) -> int:
        """D."""
        return self.shards[0].size

    def search(
        self,
        queries: NDArray[np.floating],
        count: int,
        *,
        among: NDArray[np.integer] | None = None,
        without: NDArray[np.integer] | None = None,
    ) -> tuple[Scores, Rows]:
        """As `FeatureIndex.search`: the largest of what the shards find."""
        asked = checked_queries(queries, self.size)
        found = []
        for number, shard in enumerate(self.shards):
            first = self.offsets[number]
            scores, rows = shard.search(
                asked, count, among=self._part(among, number), without=self._part(without, number)
            )
            found.append((scores, np.where(rows < 0, -1, rows + first)))
        return largest(found, len(asked), count)

    def features(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """As `FeatureIndex.features`."""
        wanted = np.asarray(rows, dtype=np.int64)
        kept = np.empty((len(wanted), self.size), np.float32)
        for number, shard in enumerate(self.shards):
            mine = (wanted >= self.offsets[number]) & (wanted < self.offsets[number + 1])
            if mine.any():
                kept[mine] = shard.features(wanted[mine] - self.offsets[number])
        return kept

    def row_of(self, image_id: str) -> int:
        """As `FeatureIndex.row_of`."""
        return row_of(self._rows, image_id)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.ids)}

    def _part(self, rows: NDArray[np.integer] | None, number: int) -> Rows | None:
        if rows is None:
            return None
        first, end = self.offsets[number], self.offsets[number + 1]
        wanted: Rows = np.asarray(rows, dtype=np.int64)
        inside: Rows = wanted[(wanted >= first) & (wanted < end)] - first
        return inside
