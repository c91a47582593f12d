"""One classifier's features in one faiss index."""

import importlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whylens.errors import UsageError
from whylens.neural_pca.index.faiss_kinds import (
    copied,
    inverted_lists,
    knn,
    make,
    reason,
    refined,
    train,
)
from whylens.neural_pca.index.searchable import (
    BLOCK,
    Rows,
    Scores,
    checked_queries,
    largest,
    row_of,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FeatureIndex:
    """Features [N, D] of one classifier with an id for each row, in one faiss index.

    Attributes
    ----------
    index
        The faiss index, of features minus `centre`.
    factory
        Its kind as a faiss factory string: "Flat", "IVF1024,SQfp16", "PQ64x4fs,Refine(SQfp16)", ...
    centre
        [D]; zeros for a kind that needs no training.
    search_parameters
        How hard an approximate kind looks, in faiss's words: "nprobe=16,k_factor_rf=64". Empty: as
        faiss has it.
    """

    index: Any
    ids: tuple[str, ...]
    fingerprint: str
    factory: str
    centre: NDArray[np.float32]
    search_parameters: str = ""
    # The same on a GPU, which searches but does not give features back.
    on_device: Any = field(default=None, repr=False)

    @classmethod
    def train(
        cls,
        sample: NDArray[np.floating],
        ids: Sequence[str],
        *,
        fingerprint: str,
        factory: str = "Flat",
    ) -> "FeatureIndex":
        """An empty index, trained on a sample of features [n, D]; on GPUs where faiss sees some.

        Raises
        ------
        UsageError
            If the string is none that faiss knows, there are too few images to train such an index
            or none, or a feature is not finite (the image is named).
        """
        rows = _checked(sample, ids)
        index = make(rows.shape[1], factory)
        centre = np.zeros(rows.shape[1], np.float32)
        if not index.is_trained:
            centre = rows.mean(0, dtype=np.float64).astype(np.float32)
            train(index, rows - centre, factory)
        trained = cls(index, (), fingerprint, factory, centre)
        if (lists := inverted_lists(index)) is not None:
            # faiss visits one list unless told otherwise, and misses most of what it is asked for.
            trained = replace(trained, search_parameters=f"nprobe={max(16, lists.nlist // 4)}")
        return trained

    @classmethod
    def build(
        cls,
        features: NDArray[np.floating],
        ids: Sequence[str],
        *,
        fingerprint: str,
        factory: str = "Flat",
    ) -> "FeatureIndex":
        """Train on features [N, D] and hold them.

        Raises
        ------
        UsageError
            As `train` and `filled`.
        """
        trained = cls.train(features, ids, fingerprint=fingerprint, factory=factory)
        return trained.filled(features, ids)

    def filled(self, features: NDArray[np.floating], ids: Sequence[str]) -> "FeatureIndex":
        """A copy of a trained, empty index with features [N, D]: a shard of a larger index.

        Raises
        ------
        UsageError
            If there are none, they are of another size, ids and rows differ in number, or a feature
            is not finite (the image is named).
        """
        rows = _checked(features, ids)
        if rows.shape[1] != self.size:
            raise UsageError(f"the features have {rows.shape[1]} values, the index {self.size}")
        index = copied(self.index)
        if not self.centre.any():
            index.add(rows)
            return replace(self, index=index, ids=tuple(ids))
        for start in range(0, len(rows), BLOCK):
            index.add(rows[start : start + BLOCK] - self.centre)
        return replace(self, index=index, ids=tuple(ids))

    @property
    def size(self) -> int:
        """D."""
        return int(self.index.d)

    def search(
        self,
        queries: NDArray[np.floating],
        count: int,
        *,
        among: NDArray[np.integer] | None = None,
        without: NDArray[np.integer] | None = None,
    ) -> tuple[Scores, Rows]:
        """Largest inner products with queries [Q, D]: (scores [Q, count], rows [Q, count]).

        `among` restricts the search to some rows, and is exact on the features as the index keeps
        them, whatever its kind; `without` leaves some out. Where there are fewer than `count`, the
        row is -1.

        Raises
        ------
        UsageError
            If queries are of another size than the features, or not finite.
        """
        asked = checked_queries(queries, self.size)
        if among is not None:
            wanted = np.unique(np.asarray(among, dtype=np.int64))
            if without is not None:
                wanted = np.setdiff1d(wanted, without)
            return self._exact(asked, count, wanted)
        if without is not None:
            return self._without(asked, count, np.unique(without))
        return self._search(asked, count)

    def _search(self, queries: Scores, count: int) -> tuple[Scores, Rows]:
        faiss = importlib.import_module("faiss")
        scores: Scores
        rows: Rows
        if self.on_device is not None:
            try:
                if self.search_parameters:
                    faiss.GpuParameterSpace().set_index_parameters(
                        self.on_device, self.search_parameters
                    )
                scores, rows = self.on_device.search(queries, count)
                return scores + (queries @ self.centre)[:, None], rows
            except RuntimeError as error:
                # A GPU gives no more than 2,048 answers, and looks into no more lists.
                logger.info("the index %s is searched on the CPU: %s", self.factory, reason(error))
        if self.search_parameters:
            faiss.ParameterSpace().set_index_parameters(self.index, self.search_parameters)
        scores, rows = self.index.search(queries, count)
        return scores + (queries @ self.centre)[:, None], rows

    def _exact(self, queries: Scores, count: int, among: Rows) -> tuple[Scores, Rows]:
        found = []
        for part, features in self._blocks(among):
            scores, places = knn(queries, features, count)
            found.append((scores, np.where(places < 0, -1, part[places])))
        return largest(found, len(queries), count)

    def _blocks(self, among: Rows) -> Iterator[tuple[Rows, NDArray[np.float32]]]:
        for start in range(0, len(among), BLOCK):
            part = among[start : start + BLOCK]
            yield part, self.features(part)

    def _without(self, queries: Scores, count: int, without: Rows) -> tuple[Scores, Rows]:
        """More than is asked for is searched until enough is left; few queries need much more."""
        barred = np.zeros(len(self.ids) + 1, bool)  # the last is row -1's: nothing
        barred[without] = barred[-1] = True
        scores = np.full((len(queries), count), -np.inf, np.float32)
        rows = np.full((len(queries), count), -1, np.int64)
        open_, asked = np.arange(len(queries)), count
        most = min(count + len(without), len(self.ids))
        while len(open_):
            asked = min(2 * asked, most)
            got, places = self._search(queries[open_], asked)
            good = ~barred[places]
            order = np.argsort(~good, axis=1, kind="stable")[:, :count]
            width = order.shape[1]
            kept = np.take_along_axis(good, order, 1)
            scores[open_, :width] = np.where(kept, np.take_along_axis(got, order, 1), -np.inf)
            rows[open_, :width] = np.where(kept, np.take_along_axis(places, order, 1), -1)
            open_ = open_[good.sum(1) < count]
            if asked == most:
                break
        allowed = np.flatnonzero(~barred[:-1])
        if len(open_) and len(allowed) and (rows[open_, min(count, len(allowed)) - 1] < 0).any():
            # An approximate kind may see no more than this, however much is asked of it.
            scores[open_], rows[open_] = self._exact(queries[open_], count, allowed)
        return scores, rows

    def features(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """Features [n, D] of some rows, as the index keeps them: exact, rounded, or from codes."""
        lists = inverted_lists(self.index)
        if lists is not None and lists.direct_map.type == 0 and not refined(self.index):
            lists.make_direct_map()
        wanted = np.ascontiguousarray(rows, dtype=np.int64)
        kept: NDArray[np.float32] = self.index.reconstruct_batch(wanted) + self.centre
        return kept

    def row_of(self, image_id: str) -> int:
        """The row of an image.

        Raises
        ------
        UsageError
            If it is none of the index's.
        """
        return row_of(self._rows, image_id)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.ids)}

    def on_gpus(self) -> "FeatureIndex":
        """On all GPUs that faiss sees; the index itself where none is, or none takes its kind."""
        faiss = importlib.import_module("faiss")
        if not faiss.get_num_gpus():
            return self
        try:
            return replace(self, on_device=faiss.index_cpu_to_all_gpus(self.index))
        except RuntimeError as error:
            logger.info("the index %s stays on the CPU: %s", self.factory, reason(error))
            return self


def _checked(features: NDArray[np.floating], ids: Sequence[str]) -> NDArray[np.float32]:
    rows = np.ascontiguousarray(features, dtype=np.float32)
    if rows.ndim != 2 or not rows.size:
        raise UsageError(f"there are no features to index (their shape is {rows.shape})")
    if len(rows) != len(ids):
        raise UsageError(f"{len(rows)} features but {len(ids)} ids")
    for start in range(0, len(rows), BLOCK):
        broken = ~np.isfinite(rows[start : start + BLOCK]).all(1)
        if broken.any():
            raise UsageError(f"the features of {ids[start + int(broken.argmax())]} are not finite")
    return rows
