"""What judging a class needs to know of all other images, gathered in one pass over the features.

Means of features per label (for the contrast with other classes), means of p_k per label (what
images without the class get in general), and a sample of images. All of it merges, so that parts of
a table are read by many workers; its size does not grow with the number of images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Ranks among images, and the words of their captions, are read off a sample of this size. A rank is
# then off by half a percent; smaller collections are taken whole.
SAMPLE = 10_000


@dataclass(frozen=True)
class Census:
    """Sums over images by label, and a sample of them.

    Attributes
    ----------
    counts, feature_sums
        Of the images to explain: how many a label, [K], and the sums of their features, [K, D].
    pool_counts, probability_sums
        Of the mined images: how many a label, [K + 1] (the last: without a label), and the sums of
        their probabilities, [K + 1, K].
    ranks, labels, texts, features
        The sample of the mined images: S at most, those of the smallest hashes [S] of their ids,
        in their order; their labels [S], captions [S] and features [S, D] float32.
    """

    counts: NDArray[np.int64]
    feature_sums: Array
    pool_counts: NDArray[np.int64]
    probability_sums: Array
    ranks: NDArray[np.int64]
    labels: NDArray[np.int64]
    texts: NDArray[np.object_]
    features: NDArray[np.float32]

    @classmethod
    def empty(cls, classes: int, size: int) -> "Census":
        """Of no images of K classes and D features."""
        return cls(
            np.zeros(classes, np.int64),
            np.zeros((classes, size)),
            np.zeros(classes + 1, np.int64),
            np.zeros((classes + 1, classes)),
            np.zeros(0, np.int64),
            np.zeros(0, np.int64),
            np.zeros(0, object),
            np.zeros((0, size), np.float32),
        )

    def with_images(self, features: NDArray[np.floating], labels: NDArray[np.int64]) -> "Census":
        """And images to explain: features [N, D], labels [N] in [0, K)."""
        counts, sums = self.counts.copy(), self.feature_sums.copy()
        _add(counts, sums, labels, features)
        return _replaced(self, counts=counts, feature_sums=sums)

    def with_pool(
        self,
        ids: Sequence[str],
        features: NDArray[np.floating],
        labels: NDArray[np.int64],
        texts: Sequence[str],
        probabilities: NDArray[np.floating],
    ) -> "Census":
        """And mined images: ids [N], features [N, D], labels [N] (negative: none), captions [N],
        probabilities [N, K]."""
        counts, sums = self.pool_counts.copy(), self.probability_sums.copy()
        _add(counts, sums, np.where(labels < 0, len(counts) - 1, labels), probabilities)
        seen = _replaced(
            self,
            ranks=np.asarray([crc32(name.encode()) for name in ids], np.int64),
            labels=np.asarray(labels, np.int64),
            texts=np.asarray([*texts, None], object)[:-1],
            features=np.asarray(features, np.float32),
        )
        sampled = _sampled(self, seen)
        return _replaced(sampled, pool_counts=counts, probability_sums=sums)

    def merge(self, other: "Census") -> "Census":
        """Both together; the sample keeps self's order before other's."""
        return _replaced(
            _sampled(self, other),
            counts=self.counts + other.counts,
            feature_sums=self.feature_sums + other.feature_sums,
            pool_counts=self.pool_counts + other.pool_counts,
            probability_sums=self.probability_sums + other.probability_sums,
        )

    def means(self, k: int) -> tuple[Array, Array | None]:
        """Mean features [D] of class k, and of all other classes (None: there are no others)."""
        others = int(self.counts.sum() - self.counts[k])
        rest = self.feature_sums.sum(0) - self.feature_sums[k]
        return self.feature_sums[k] / max(self.counts[k], 1), rest / others if others else None

    def base(self, k: int) -> float:
        """Mean p_k over the mined images without class k; 0 where there are none."""
        count = self.pool_counts.sum() - self.pool_counts[k]
        total = self.probability_sums[:, k].sum() - self.probability_sums[k, k]
        return float(total / count) if count else 0.0

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """As plain arrays, for safetensors; of the sums only rows that hold something."""
        used, pool_used = np.flatnonzero(self.counts), np.flatnonzero(self.pool_counts)
        return {
            "counts": self.counts,
            "feature_sums": self.feature_sums[used],
            "pool_counts": self.pool_counts,
            "probability_sums": self.probability_sums[pool_used],
            "ranks": self.ranks,
            "labels": self.labels,
            "features": self.features,
            "texts": np.frombuffer("\0".join(self.texts).encode(), np.uint8),
        }


def from_arrays(arrays: Mapping[str, NDArray[Any]]) -> Census:
    """The inverse of `Census.to_arrays`."""
    counts, features = arrays["counts"], arrays["features"]
    empty = Census.empty(len(counts), features.shape[1])
    empty.feature_sums[counts > 0] = arrays["feature_sums"]
    empty.probability_sums[arrays["pool_counts"] > 0] = arrays["probability_sums"]
    texts = arrays["texts"].tobytes().decode().split("\0") if len(features) else []
    return Census(
        counts,
        empty.feature_sums,
        arrays["pool_counts"],
        empty.probability_sums,
        arrays["ranks"],
        arrays["labels"],
        np.asarray([*texts, None], object)[:-1],
        features,
    )


def _replaced(census: Census, **changes: Any) -> Census:
    return Census(**{**vars(census), **changes})


def _add(
    counts: NDArray[np.int64],
    sums: Array,
    labels: NDArray[np.int64],
    rows: NDArray[np.floating],
) -> None:
    """Count rows [N, C] and add them to the sums of their labels, in double precision."""
    for label in np.unique(labels):
        of_label = rows[labels == label]
        counts[label] += len(of_label)
        sums[label] += of_label.sum(0, dtype=np.float64)


def _sampled(first: Census, second: Census) -> Census:
    """`first` with the sample of both."""
    ranks = np.concatenate([first.ranks, second.ranks])
    kept = np.sort(np.argsort(ranks, kind="stable")[:SAMPLE])
    joined = {
        name: np.concatenate([getattr(first, name), getattr(second, name)])[kept]
        for name in ("labels", "texts", "features")
    }
    return _replaced(first, ranks=ranks[kept], **joined)
