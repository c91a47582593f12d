"""Images that show a slice: their thumbnails, and the words that tell them from others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from whylens.images import ImageCollection
from whylens.images.tensors import thumbnail
from whylens.neural_pca import typical_words

EXEMPLAR = pa.struct(
    [("image_id", pa.string()), ("p", pa.float32()), ("label", pa.string()), ("thumb", pa.binary())]
)
# Captions beside which those of a slice are typical or not.
CAPTIONS = 10_000


def exemplars(
    collection: ImageCollection,
    ids: Sequence[str],
    p: Sequence[float],
    labels: Sequence[str | None],
) -> list[dict[str, Any]]:
    """Images of a collection as rows of `EXEMPLAR`."""
    records = collection.records.with_ids(ids)
    return [
        {
            "image_id": name,
            "p": float(one),
            "label": label,
            "thumb": thumbnail(collection.load(records[name]), 224),
        }
        for name, one, label in zip(ids, p, labels, strict=True)
    ]


def words_of(captions: np.ndarray, rows: np.ndarray) -> list[str]:
    """Words that the captions [N] of some rows hold more often than others'."""
    sample = np.random.default_rng(0).permutation(len(captions))[:CAPTIONS]
    seen = np.union1d(sample, rows)
    weights = np.isin(seen, rows).astype(np.float64)
    return [word for word, _ in typical_words(list(captions[seen]), weights)]
