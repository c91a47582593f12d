"""What jobs on slices share: a collection with its index, and what is told of images in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from whylens.images import ImageCollection, open_collection
from whylens.images.tensors import thumbnail, to_tensor
from whylens.jobs.columns import columns
from whylens.jobs.images.embedded import IMAGES
from whylens.jobs.images.index import index_of
from whylens.jobs.images.rejected import ReadableImages
from whylens.neural_pca import typical_words
from whylens.neural_pca.index.searchable import Searchable
from whylens.neural_pca.systematic import SystematicError
from whylens.runs.lineage import Lineage

if TYPE_CHECKING:
    from torch import Tensor

    from whylens.classifiers import Classifier

KEY = (pa.field("class_index", pa.int32()), pa.field("class_name", pa.string()))

EXEMPLAR = pa.struct(
    [("image_id", pa.string()), ("p", pa.float32()), ("label", pa.string()), ("thumb", pa.binary())]
)
# The columns of images that fail alike, as `told` has them.
TOLD = (
    *columns(pa.int32(), "images", "near"),
    *columns(pa.float64(), "rate", "rate_low", "rate_high", "p", "p_low", "p_high"),
    pa.field("strata", pa.int32()),
    pa.field("words", pa.list_(pa.string())),
)
# Images that a classifier sees together.
BATCH = 64
# Captions beside which those of a slice are typical or not.
CAPTIONS = 10_000


class Indexed(NamedTuple):
    """A collection with its index; labels [N] (-1: none) and captions [N] of the index's rows."""

    images: ReadableImages
    searchable: Searchable
    labels: np.ndarray
    captions: np.ndarray


def collection_of(lineage: Lineage, tag: str) -> ImageCollection:
    """A run's collection, "main" or "second"."""
    return open_collection(str(lineage.setting("second" if tag == "second" else "images")))


def indexed(lineage: Lineage, tag: str, classifier: Classifier) -> Indexed:
    """A run's collection with the index of its features."""
    index = index_of(lineage, tag, classifier)
    seen = lineage.table(IMAGES).read(["id", "label", "caption", "collection"])
    seen = seen.filter(pc.equal(seen["collection"], tag))
    seen = seen.take(pc.index_in(pa.array(index.ids, pa.string()), seen["id"]))
    return Indexed(
        ReadableImages(collection_of(lineage, tag), tag),
        index,
        seen["label"].to_numpy().astype(np.int64),
        np.asarray(pc.fill_null(seen["caption"], "").to_pylist(), object),
    )


def seen_by(
    classifier: Classifier,
    images: ReadableImages,
    ids: Sequence[str],
    ask: Callable[[Tensor], Tensor],
) -> dict[str, np.ndarray]:
    """What `ask` says of images, as the classifier is shown them: rows [...] in float32 by id.

    In the order of the ids, without those that can't be read.
    """
    import torch

    said: dict[str, np.ndarray] = {}
    for start in range(0, len(ids), BATCH):
        pixels = images.load(ids[start : start + BATCH])
        if not pixels:
            continue
        shown = [to_tensor(classifier.eval_transform(one)) for one in pixels.values()]
        with torch.inference_mode():
            rows = ask(torch.stack(shown).to(classifier.device)).float().cpu().numpy()
        said |= dict(zip(pixels, rows, strict=True))
    return said


def told(error: SystematicError, captions: np.ndarray) -> dict[str, Any]:
    """The columns TOLD of images that fail alike."""
    p = error.probability
    return {
        "images": len(error.rows),
        "near": len(error.near),
        "rate": error.rate,
        "rate_low": error.low,
        "rate_high": error.high,
        "p": p.mean,
        "p_low": None if np.isnan(p.low) else max(p.low, 0.0),
        "p_high": None if np.isnan(p.high) else min(p.high, 1.0),
        "strata": p.strata,
        "words": words_of(captions, error.rows),
    }


def exemplars(
    images: ReadableImages, ids: Sequence[str], p: Sequence[float], labels: Sequence[str | None]
) -> list[dict[str, Any]]:
    """Images of a collection as rows of `EXEMPLAR`, those that can be read."""
    pixels = images.load(ids)
    return [
        {
            "image_id": name,
            "p": float(one),
            "label": label,
            "thumb": thumbnail(pixels[name], 224),
        }
        for name, one, label in zip(ids, p, labels, strict=True)
        if name in pixels
    ]


def words_of(captions: np.ndarray, rows: np.ndarray) -> list[str]:
    """Words that the captions [N] of some rows hold more often than others'."""
    sample = np.random.default_rng(0).permutation(len(captions))[:CAPTIONS]
    seen = np.union1d(sample, rows)
    weights = np.isin(seen, rows).astype(np.float64)
    return [word for word, _ in typical_words(list(captions[seen]), weights)]
