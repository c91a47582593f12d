"""One faiss index a classifier: exact or approximate maximum inner product search over features.

alpha_l is an inner product with the features minus a constant, so "which images activate component
l most" is a search with the query d_l; a neuron's query is a unit vector.
"""

import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whylens.errors import UsageError


@dataclass(frozen=True)
class FeatureIndex:
    """Features [N, D] of one classifier with an id for each row."""

    index: Any
    ids: tuple[str, ...]
    fingerprint: str
    factory: str

    @classmethod
    def build(
        cls,
        features: NDArray[np.floating],
        ids: Sequence[str],
        *,
        fingerprint: str,
        factory: str = "Flat",
    ) -> "FeatureIndex":
        """Index features [N, D] with a faiss factory string ("Flat", "IVF1024,SQfp16", ...).

        Raises
        ------
        UsageError
            If the string is none that faiss knows, there are too few images to train such an index,
            ids and rows differ in number, or a feature is not finite (the image is named).
        """
        faiss = importlib.import_module("faiss")
        rows = np.ascontiguousarray(features, dtype=np.float32)
        if len(rows) != len(ids):
            raise UsageError(f"{len(rows)} features but {len(ids)} ids")
        broken = ~np.isfinite(rows).all(1)
        if broken.any():
            raise UsageError(f"the features of {ids[int(broken.argmax())]} are not finite")
        try:
            index = faiss.index_factory(rows.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        except RuntimeError as error:
            raise UsageError(f"faiss has no index {factory!r}: {error}") from error
        if not index.is_trained:
            try:
                index.train(rows)
            except RuntimeError as error:
                raise UsageError(
                    f"the index {factory!r} can't be trained on {len(rows)} images: give more "
                    f"images, or use Flat ({error})"
                ) from error
        index.add(rows)
        if (inverted := _inverted(index)) is not None:
            # faiss visits one list unless told otherwise, and misses most of what it is asked for.
            inverted.nprobe = max(16, inverted.nlist // 4)
        return cls(index, tuple(ids), fingerprint, factory)

    def search(
        self,
        queries: NDArray[np.floating],
        count: int,
        *,
        among: NDArray[np.integer] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Largest inner products with queries [Q, D]: (scores [Q, count], rows [Q, count]).

        `among` restricts the search to some rows; no list of an inverted index is left out then,
        as these rows may lie in any. Where there are fewer than `count`, the row is -1.
        """
        faiss = importlib.import_module("faiss")
        asked = np.ascontiguousarray(queries, dtype=np.float32)
        parameters = None
        if among is not None:
            selector = faiss.IDSelectorBatch(np.ascontiguousarray(among, dtype=np.int64))
            inverted = _inverted(self.index)
            parameters = (
                faiss.SearchParameters(sel=selector)
                if inverted is None
                else faiss.SearchParametersIVF(sel=selector, nprobe=inverted.nlist)
            )
        scores, rows = self.index.search(asked, count, params=parameters)
        return scores, rows

    def save(self, folder: Path) -> None:
        """Write index.faiss and index.json to a folder."""
        faiss = importlib.import_module("faiss")
        folder.mkdir(parents=True, exist_ok=True)
        faiss.write_index(self.index, str(folder / "index.faiss"))
        record = {"ids": self.ids, "fingerprint": self.fingerprint, "factory": self.factory}
        (folder / "index.json").write_text(json.dumps(record))

    @classmethod
    def load(cls, folder: Path, *, fingerprint: str) -> "FeatureIndex":
        """Read an index, memory-mapped where its kind allows.

        Raises
        ------
        UsageError
            If it isn't there, or was built for another classifier.
        """
        faiss = importlib.import_module("faiss")
        if not (folder / "index.json").is_file():
            raise UsageError(f"no index in {folder}")
        record = json.loads((folder / "index.json").read_text())
        if record["fingerprint"] != fingerprint:
            raise UsageError(
                f"the index in {folder} was built for the classifier {record['fingerprint']}, "
                f"this is {fingerprint}: build it again"
            )
        index = faiss.read_index(str(folder / "index.faiss"), faiss.IO_FLAG_MMAP)
        return cls(index, tuple(record["ids"]), fingerprint, record["factory"])


def _inverted(index: Any) -> Any | None:
    """The part of an index that keeps inverted lists ("IVF"); None where there is none."""
    faiss = importlib.import_module("faiss")
    return faiss.try_extract_index_ivf(index)
