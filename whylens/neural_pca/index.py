"""Maximum inner product search over features: exact, or approximate by any faiss factory string.

alpha_l is an inner product with the features minus a constant, so "which images activate component
l most" is a search with the query d_l; a neuron's query is a unit vector. `queries` has those.

Approximate kinds hold the features minus their mean. That adds the same <q, mean> to every score of
a query, so it changes no order, and what is left to approximate is much smaller.
"""

import importlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from whylens.errors import UsageError

logger = logging.getLogger(__name__)

Rows = NDArray[np.int64]
Scores = NDArray[np.float32]

# Features that are looked at together in an exact pass: 84 MB at D = 1,280.
BLOCK = 16_384
# Candidates an answer that a refined index looks at again, from few to many.
CANDIDATES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


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
    effort
        How hard an approximate kind looks, in faiss's words: "nprobe=16,k_factor_rf=64". Empty: as
        faiss has it.
    """

    index: Any
    ids: tuple[str, ...]
    fingerprint: str
    factory: str
    centre: NDArray[np.float32]
    effort: str = ""
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
        faiss = importlib.import_module("faiss")
        rows = _checked(sample, ids)
        try:
            index = faiss.index_factory(rows.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        except RuntimeError as error:
            raise UsageError(f"faiss has no index {factory!r}: {_reason(error)}") from error
        centre = np.zeros(rows.shape[1], np.float32)
        if not index.is_trained:
            centre = rows.mean(0, dtype=np.float64).astype(np.float32)
            _train(index, rows - centre, factory)
        trained = cls(index, (), fingerprint, factory, centre)
        if (inverted := _inverted(index)) is not None:
            # faiss visits one list unless told otherwise, and misses most of what it is asked for.
            trained = replace(trained, effort=f"nprobe={max(16, inverted.nlist // 4)}")
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
        faiss = importlib.import_module("faiss")
        rows = _checked(features, ids)
        if rows.shape[1] != self.size:
            raise UsageError(f"the features have {rows.shape[1]} values, the index {self.size}")
        index = faiss.deserialize_index(faiss.serialize_index(self.index))
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
        asked = _checked_queries(queries, self.size)
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
        index, space = self.index, faiss.ParameterSpace
        if self.on_device is not None:
            index, space = self.on_device, faiss.GpuParameterSpace
        if self.effort:
            space().set_index_parameters(index, self.effort)
        scores, rows = index.search(queries, count)
        return scores + (queries @ self.centre)[:, None], rows

    def _exact(self, queries: Scores, count: int, among: Rows) -> tuple[Scores, Rows]:
        found = []
        for part, features in self._blocks(among):
            scores, places = _knn(queries, features, count)
            found.append((scores, np.where(places < 0, -1, part[places])))
        return _largest(found, len(queries), count)

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
        inverted = _inverted(self.index)
        if inverted is not None and inverted.direct_map.type == 0 and not _refined(self.index):
            inverted.make_direct_map()
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
        return _row_of(self._rows, image_id)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.ids)}

    def calibrated(
        self,
        features: NDArray[np.floating],
        queries: NDArray[np.floating],
        *,
        count: int = 5,
        recall: float = 0.95,
    ) -> tuple["FeatureIndex", float]:
        """The index with the quickest effort that reaches a recall on queries [Q, D]; its recall.

        `features` [N, D] are what the index was filled with, in full precision; recall is the share
        of their exact top `count` that is found. Where no effort reaches it, the best is taken,
        with a warning.
        """
        if self.factory == "Flat":
            return self, 1.0
        asked = _checked_queries(queries, self.size)
        exact = np.ascontiguousarray(features, dtype=np.float32)
        _, truth = _knn(asked, exact, count)
        tried = []
        for efforts in _efforts(self.index):
            for effort in efforts:
                candidate = replace(self, effort=effort)
                before = time.perf_counter()
                _, rows = candidate._search(asked, count)
                seconds = time.perf_counter() - before
                tried.append((recall_of(rows, truth), seconds, candidate))
                if tried[-1][0] >= recall:
                    break  # more of the same is slower
        good = [trial for trial in tried if trial[0] >= recall]
        share, _, best = (
            min(good, key=lambda trial: trial[1])
            if good
            else max(tried, key=lambda trial: trial[0])
        )
        if not good:
            logger.warning(
                "the index %s finds %.0f %% of the exact answers at most, %.0f %% are asked for",
                self.factory,
                100 * share,
                100 * recall,
            )
        return best, share

    def placed(self) -> "FeatureIndex":
        """On all GPUs that faiss sees; the index itself where none is, or none takes its kind."""
        faiss = importlib.import_module("faiss")
        if not faiss.get_num_gpus():
            return self
        try:
            return replace(self, on_device=faiss.index_cpu_to_all_gpus(self.index))
        except RuntimeError as error:
            logger.info("the index %s stays on the CPU: %s", self.factory, _reason(error))
            return self

    def packed(self) -> tuple[bytes, bytes]:
        """The index as faiss writes it, and the rest as JSON."""
        faiss = importlib.import_module("faiss")
        return faiss.serialize_index(self.index).tobytes(), self._record()

    def _record(self) -> bytes:
        record = {
            "fingerprint": self.fingerprint,
            "factory": self.factory,
            "effort": self.effort,
            "centre": self.centre.tolist(),
            "ids": self.ids,
        }
        return json.dumps(record).encode()

    @classmethod
    def unpacked(cls, content: bytes, record: bytes) -> "FeatureIndex":
        """The inverse of `packed`."""
        faiss = importlib.import_module("faiss")
        index = faiss.deserialize_index(np.frombuffer(content, np.uint8))
        return cls._with_record(index, json.loads(record))

    def save(self, folder: Path, name: str = "index") -> None:
        """Write NAME.faiss and NAME.json to a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        faiss = importlib.import_module("faiss")
        faiss.write_index(self.index, str(folder / f"{name}.faiss"))
        (folder / f"{name}.json").write_bytes(self._record())

    @classmethod
    def load(cls, folder: Path, *, fingerprint: str, name: str = "index") -> "FeatureIndex":
        """Read an index, memory-mapped: all but the codes of a fast scan, which faiss reads.

        Raises
        ------
        UsageError
            If it isn't there, or was built for another classifier.
        """
        faiss = importlib.import_module("faiss")
        if not (folder / f"{name}.json").is_file():
            raise UsageError(f"no index in {folder}")
        record = json.loads((folder / f"{name}.json").read_bytes())
        require_classifier(record["fingerprint"], fingerprint, f"in {folder}")
        index = faiss.read_index(str(folder / f"{name}.faiss"), faiss.IO_FLAG_MMAP_IFC)
        return cls._with_record(index, record)

    @classmethod
    def _with_record(cls, index: Any, record: dict[str, Any]) -> "FeatureIndex":
        centre = np.asarray(record["centre"], dtype=np.float32)
        ids = tuple(record["ids"])
        return cls(index, ids, record["fingerprint"], record["factory"], centre, record["effort"])


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
        asked = _checked_queries(queries, self.size)
        found = []
        for number, shard in enumerate(self.shards):
            first = self.offsets[number]
            scores, rows = shard.search(
                asked, count, among=self._part(among, number), without=self._part(without, number)
            )
            found.append((scores, np.where(rows < 0, -1, rows + first)))
        return _largest(found, len(asked), count)

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
        return _row_of(self._rows, image_id)

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


def require_classifier(built_for: str, fingerprint: str, where: str) -> None:
    """Raise UsageError if an index was built for another classifier."""
    if built_for != fingerprint:
        raise UsageError(
            f"the index {where} was built for the classifier {built_for}, this is {fingerprint}: "
            "build it again"
        )


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


def _checked_queries(queries: NDArray[np.floating], size: int) -> Scores:
    asked = np.ascontiguousarray(queries, dtype=np.float32)
    if asked.ndim != 2 or asked.shape[1] != size:
        raise UsageError(f"queries are [Q, {size}] for this index, not {list(asked.shape)}")
    if not np.isfinite(asked).all():
        raise UsageError("a query is not finite")
    return asked


def _train(index: Any, rows: NDArray[np.float32], factory: str) -> None:
    """Train an index in place on centred rows, its k-means on the GPUs where there are any."""
    faiss = importlib.import_module("faiss")
    inverted = _inverted(index)
    if inverted is not None and faiss.get_num_gpus():
        flat = faiss.IndexFlat(inverted.d, inverted.metric_type)
        inverted.clustering_index = faiss.index_cpu_to_all_gpus(flat)
    try:
        index.train(rows)
    except RuntimeError as error:
        raise UsageError(
            f"the index {factory!r} can't be trained on {len(rows)} images: give more images, or "
            f"use Flat ({_reason(error)})"
        ) from error
    finally:
        if inverted is not None:
            inverted.clustering_index = None
    for transform in _transforms(index):
        # faiss moves queries by the same offset as rows, which is wrong for inner products: against
        # short queries, as components are, it is all that is left. The rows are centred already.
        transform.have_bias = False


def _transforms(index: Any) -> Iterator[Any]:
    """Linear transforms that an index applies first ("PCA", "OPQ")."""
    faiss = importlib.import_module("faiss")
    inner = faiss.downcast_index(index)
    if isinstance(inner, faiss.IndexRefine):
        inner = faiss.downcast_index(inner.base_index)
    if isinstance(inner, faiss.IndexPreTransform):
        for place in range(inner.chain.size()):
            transform = faiss.downcast_VectorTransform(inner.chain.at(place))
            if isinstance(transform, faiss.LinearTransform):
                yield transform


def _inverted(index: Any) -> Any | None:
    """The part of an index that keeps inverted lists ("IVF"); None where there is none."""
    faiss = importlib.import_module("faiss")
    inner = faiss.downcast_index(index)
    if isinstance(inner, faiss.IndexRefine):
        inner = inner.base_index
    return faiss.try_extract_index_ivf(inner)


def _refined(index: Any) -> bool:
    """Whether candidates are looked at again in finer codes (",RFlat", ",Refine(SQfp16)")."""
    faiss = importlib.import_module("faiss")
    return isinstance(faiss.downcast_index(index), faiss.IndexRefine)


def _efforts(index: Any) -> list[list[str]]:
    """Efforts to try on an index: lists of rising effort, in powers of two or finer."""
    faiss = importlib.import_module("faiss")
    space = faiss.ParameterSpace()
    space.initialize(index)
    ranges = space.parameter_ranges
    names = {ranges.at(place).name for place in range(ranges.size())}
    first: list[str] = []
    if (inverted := _inverted(index)) is not None:
        powers = [2**power for power in range(inverted.nlist.bit_length())]
        between = [power // 2 * 3 for power in powers[1:] if power // 2 * 3 < inverted.nlist]
        probes = sorted({*powers, *between, inverted.nlist})
        first = [f"nprobe={count}" for count in probes]
    elif "efSearch" in names:
        first = [f"efSearch={2**power}" for power in range(4, 11)]
    if not _refined(index):
        return [first or [""]]
    again = [f"k_factor_rf={factor}" for factor in CANDIDATES]
    return [[f"{one},{factor}" for factor in again] for one in first] or [again]


def _knn(queries: Scores, features: NDArray[np.float32], count: int) -> tuple[Scores, Rows]:
    """Exact search in an array; row -1 where there are fewer."""
    faiss = importlib.import_module("faiss")
    scores, rows = faiss.knn(queries, features, count, metric=faiss.METRIC_INNER_PRODUCT)
    return scores, rows


def _largest(found: Sequence[tuple[Scores, Rows]], queries: int, count: int) -> tuple[Scores, Rows]:
    """The largest `count` of several searches' answers."""
    scores = np.full((queries, count), -np.inf, np.float32)
    rows = np.full((queries, count), -1, np.int64)
    for more, places in found:
        both = np.concatenate([scores, np.where(places < 0, -np.inf, more)], 1)
        order = np.argsort(-both, axis=1, kind="stable")[:, :count]
        scores = np.take_along_axis(both, order, 1)
        rows = np.take_along_axis(np.concatenate([rows, places], 1), order, 1)
    return scores, rows


def recall_of(rows: Rows, truth: Rows) -> float:
    """Share of the true rows [Q, k] among the rows found [Q, k]; -1 is none."""
    hits = (rows[:, :, None] == truth[:, None, :]) & (truth[:, None, :] >= 0)
    return float(hits.any(1).sum() / max(1, (truth >= 0).sum()))


def _row_of(rows: dict[str, int], image_id: str) -> int:
    if image_id not in rows:
        raise UsageError(f"the index holds no image {image_id!r}")
    return rows[image_id]


def _reason(error: Exception) -> str:
    """What faiss says, without where in its source it says so."""
    return str(error).strip().splitlines()[-1].removeprefix("Error: ")
