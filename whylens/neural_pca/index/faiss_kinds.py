"""What faiss needs to be told: how an index is made, trained, taken apart and set."""

import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whylens.errors import UsageError
from whylens.neural_pca.index.searchable import Rows, Scores

# Candidates an answer that a refined index looks at again, from few to many.
CANDIDATES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


def make(size: int, factory: str) -> Any:
    """An empty index of features [N, size] for maximum inner product search.

    Raises
    ------
    UsageError
        If the string is none that faiss knows.
    """
    faiss = importlib.import_module("faiss")
    try:
        return faiss.index_factory(size, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise UsageError(f"faiss has no index {factory!r}: {reason(error)}") from error


def copied(index: Any) -> Any:
    """A copy that shares nothing with the index."""
    faiss = importlib.import_module("faiss")
    return faiss.deserialize_index(faiss.serialize_index(index))


def train(index: Any, rows: NDArray[np.float32], factory: str) -> None:
    """Train an index in place on centred rows, its k-means on the GPUs where there are any."""
    faiss = importlib.import_module("faiss")
    lists = inverted_lists(index)
    if lists is not None and faiss.get_num_gpus():
        flat = faiss.IndexFlat(lists.d, lists.metric_type)
        lists.clustering_index = faiss.index_cpu_to_all_gpus(flat)
    try:
        index.train(rows)
    except RuntimeError as error:
        raise UsageError(
            f"the index {factory!r} can't be trained on {len(rows)} images: give more images, or "
            f"use Flat ({reason(error)})"
        ) from error
    finally:
        if lists is not None:
            lists.clustering_index = None
    for transform in transforms(index):
        # faiss moves queries by the same offset as rows, which is wrong for inner products: against
        # short queries, as components are, it is all that is left. The rows are centred already.
        transform.have_bias = False


def transforms(index: Any) -> Iterator[Any]:
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


def inverted_lists(index: Any) -> Any | None:
    """The part of an index that keeps inverted lists ("IVF"); None where there is none."""
    faiss = importlib.import_module("faiss")
    inner = faiss.downcast_index(index)
    if isinstance(inner, faiss.IndexRefine):
        inner = inner.base_index
    return faiss.try_extract_index_ivf(inner)


def refined(index: Any) -> bool:
    """Whether candidates are looked at again in finer codes (",RFlat", ",Refine(SQfp16)")."""
    faiss = importlib.import_module("faiss")
    return isinstance(faiss.downcast_index(index), faiss.IndexRefine)


def search_parameters_of(index: Any) -> list[list[str]]:
    """What to try on an index: lists that look harder and harder, in powers of two or finer."""
    faiss = importlib.import_module("faiss")
    space = faiss.ParameterSpace()
    space.initialize(index)
    ranges = space.parameter_ranges
    names = {ranges.at(place).name for place in range(ranges.size())}
    first: list[str] = []
    if (lists := inverted_lists(index)) is not None:
        powers = [2**power for power in range(lists.nlist.bit_length())]
        between = [power // 2 * 3 for power in powers[1:] if power // 2 * 3 < lists.nlist]
        probes = sorted({*powers, *between, lists.nlist})
        first = [f"nprobe={count}" for count in probes]
    elif "efSearch" in names:
        first = [f"efSearch={2**power}" for power in range(4, 11)]
    if not refined(index):
        return [first or [""]]
    again = [f"k_factor_rf={factor}" for factor in CANDIDATES]
    return [[f"{one},{factor}" for factor in again] for one in first] or [again]


def knn(queries: Scores, features: NDArray[np.float32], count: int) -> tuple[Scores, Rows]:
    """Exact search in an array; row -1 where there are fewer."""
    faiss = importlib.import_module("faiss")
    scores, rows = faiss.knn(queries, features, count, metric=faiss.METRIC_INNER_PRODUCT)
    return scores, rows


def reason(error: Exception) -> str:
    """What faiss says, without where in its source it says so."""
    return str(error).strip().splitlines()[-1].removeprefix("Error: ")
