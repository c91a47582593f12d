"""An index on disk or as bytes: what faiss writes, and the rest as JSON beside it."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from whylens.errors import UsageError
from whylens.neural_pca.index.feature_index import FeatureIndex
from whylens.neural_pca.index.searchable import require_classifier


def pack_index(index: FeatureIndex) -> tuple[bytes, bytes]:
    """The index as faiss writes it, and the rest as JSON."""
    faiss = importlib.import_module("faiss")
    return faiss.serialize_index(index.index).tobytes(), _record(index)


def unpack_index(content: bytes, record: bytes) -> FeatureIndex:
    """The inverse of `pack_index`."""
    faiss = importlib.import_module("faiss")
    index = faiss.deserialize_index(np.frombuffer(content, np.uint8))
    return _with_record(index, json.loads(record))


def save_index(index: FeatureIndex, folder: Path, name: str = "index") -> None:
    """Write NAME.faiss and NAME.json to a folder."""
    faiss = importlib.import_module("faiss")
    folder.mkdir(parents=True, exist_ok=True)
    faiss.write_index(index.index, str(folder / f"{name}.faiss"))
    (folder / f"{name}.json").write_bytes(_record(index))


def load_index(folder: Path, *, fingerprint: str, name: str = "index") -> FeatureIndex:
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
    return _with_record(index, record)


def _record(index: FeatureIndex) -> bytes:
    record = {
        "fingerprint": index.fingerprint,
        "factory": index.factory,
        "search_parameters": index.search_parameters,
        "centre": index.centre.tolist(),
        "ids": index.ids,
    }
    return json.dumps(record).encode()


def _with_record(index: Any, record: dict[str, Any]) -> FeatureIndex:
    return FeatureIndex(
        index,
        tuple(record["ids"]),
        record["fingerprint"],
        record["factory"],
        np.asarray(record["centre"], dtype=np.float32),
        # Indexes of whylens 0.1 call them effort.
        record["search_parameters"] if "search_parameters" in record else record["effort"],
    )
