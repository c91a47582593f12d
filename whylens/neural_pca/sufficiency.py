"""The sufficiency check: does what a component responds to trigger the class on its own?

A second collection is mined for the images that activate the component most and do not show the
class. If they are classified as it, the feature alone is enough. ("Spurious Features Everywhere",
section 4: OpenImages mined for ImageNet.)

A class that looks like k fills the mined images of k's own shape: stars among crosses. What is
spurious comes with many classes: so each mined image has a stratum, its class, or what it is most
taken for beside k where nobody knows its class.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whylens.neural_pca.components import ClassComponents

Array = NDArray[np.float64]
# Features [B, D] to alphas [B, C] by the components of all classes, in single precision.
Alphas = Callable[[NDArray[np.floating]], NDArray[np.float32]]

# Candidates of a block are chosen in single precision, some more than are kept, and ordered in
# double precision.
MARGIN = 8


@dataclass(frozen=True)
class Mined:
    """The most activating images without the class, for each component of a class.

    rows [L, M]: the images' keys (row numbers, or ids), by falling alpha; their labels [L, M]
    (negative: none), strata [L, M] (classes), alphas [L, M], p_k [L, M], whether k is predicted,
    `predicted` [L, M], and their alphas by every component, `profiles` [L, M, L].
    """

    rows: NDArray[Any]
    labels: NDArray[np.int64]
    strata: NDArray[np.int64]
    alphas: Array
    probabilities: Array
    predicted: NDArray[np.bool_]
    profiles: Array

    @property
    def share(self) -> Array:
        """Share of mined images classified as k, [L]; 0 where none was mined."""
        return _means(self.predicted.astype(np.float64))

    @property
    def mean_probability(self) -> Array:
        """Mean p_k over the mined images, [L]; 0 where none was mined."""
        return _means(self.probabilities)


class Miner:
    """Mines a collection that comes in blocks, for the components of several classes at once.

    Memory: `bytes_a_class` for each class, and 4 bytes for each image of a block and component.
    """

    def __init__(
        self, classes: Sequence[ClassComponents], count: int, *, device: str | None = None
    ) -> None:
        """Keep `count` images a component; `device`: torch's, where products are made on one."""
        self._classes, self._count = classes, count
        directions = np.concatenate([c.directions for c in classes])
        offsets = np.concatenate([c.offsets for c in classes])
        self._rough = (
            _products(directions, offsets)
            if device is None
            else _products_on(device, directions, offsets)
        )
        self._mined = [_nothing(len(c.variances)) for c in classes]

    @staticmethod
    def bytes_a_class(top: int, size: int, count: int) -> int:
        """Memory for a class of `top` components of `size` features."""
        return top * (count * (8 * top + 33) + 20 * size)

    def add(
        self,
        keys: NDArray[Any],
        features: NDArray[np.floating],
        probabilities: NDArray[np.floating],
        labels: NDArray[np.int64],
    ) -> None:
        """A block: keys [B], features [B, D], probabilities [B, K], labels [B] (negative: none)."""
        rough = self._rough(features)
        best = best_two(probabilities)
        start = 0
        for place, components in enumerate(self._classes):
            k, stop = components.class_index, start + len(components.variances)
            block, start = rough[:, start:stop], stop
            allowed = np.flatnonzero(labels != k)
            if block[allowed].size == 0:
                continue
            chosen = self._candidates(place, block[allowed])
            if chosen is None:
                continue
            rows = allowed[chosen]  # [L, m]
            seen, inverse = np.unique(rows, return_inverse=True)
            inverse = inverse.reshape(rows.shape)
            profiles = components.alphas(features[seen])[inverse]
            self._mined[place] = _merged(
                self._mined[place],
                Mined(
                    keys[rows],
                    labels[rows],
                    strata_of(labels, best, k)[rows],
                    np.diagonal(profiles, axis1=0, axis2=2).T,
                    np.asarray(probabilities[rows, k], np.float64),
                    best[rows, 0] == k,
                    profiles,
                ),
                self._count,
            )

    def results(self) -> list[Mined]:
        """What was mined for each class."""
        return self._mined

    def _candidates(self, place: int, block: NDArray[np.float32]) -> NDArray[np.int64] | None:
        """Rows [L, m] of the largest alphas of each component; None if all were beaten before."""
        known = self._mined[place].alphas
        if known.shape[1] == self._count:
            slack = 1e-4 * np.abs(known).max(1)
            if (block.max(0) < known[:, -1] - slack).all():
                return None
        keep = min(self._count + MARGIN, len(block))
        chosen: NDArray[np.int64] = np.argpartition(-block, keep - 1, axis=0)[:keep]
        return np.sort(chosen, axis=0).T


def mine(
    components: ClassComponents,
    features: NDArray[np.floating],
    probabilities: NDArray[np.floating],
    labels: NDArray[np.int64],
    count: int,
) -> Mined:
    """Mine a collection in memory: features [N, D], probabilities [N, K]; keys are row numbers.

    `labels` [N] tell which images show class k; those without a label (negative) are taken too.
    """
    miner = Miner([components], count)
    miner.add(np.arange(len(features)), features, probabilities, labels)
    return miner.results()[0]


def best_two(probabilities: NDArray[np.floating]) -> NDArray[np.int64]:
    """The classes of the two largest probabilities of each row [N, K], [N, 2]; K = 1: [N, 1]."""
    first: NDArray[np.int64] = np.asarray(probabilities.argmax(1), np.int64)
    if probabilities.shape[1] == 1:
        return first[:, None]
    rest = np.array(probabilities)
    rest[np.arange(len(rest)), first] = -1
    both: NDArray[np.int64] = np.stack([first, rest.argmax(1)], 1).astype(np.int64)
    return both


def strata_of(labels: NDArray[np.int64], best: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """The stratum of each image for class k, [N]: its label, or without one (negative) the class
    that it is most taken for beside k, of `best` [N, 2] as `best_two` gives it."""
    other = np.where(best[:, 0] == k, best[:, -1], best[:, 0])
    strata: NDArray[np.int64] = np.where(labels >= 0, labels, other)
    return strata


def _products(directions: Array, offsets: Array) -> Alphas:
    single, start = directions.astype(np.float32), offsets.astype(np.float32)
    return lambda features: np.asarray(features, np.float32) @ single.T - start


def _products_on(device: str, directions: Array, offsets: Array) -> Alphas:
    from whylens.neural_pca.on_device import Affine  # and torch, which takes seconds

    return Affine(device, directions, -offsets)


def _means(values: Array) -> Array:
    means: Array = values.sum(1) / max(values.shape[1], 1)
    return means


def _nothing(top: int) -> Mined:
    none = np.zeros((top, 0))
    labels = none.astype(np.int64)
    return Mined(
        none.astype(object), labels, labels, none, none, none.astype(bool), np.zeros((top, 0, top))
    )


def _merged(first: Mined, second: Mined, count: int) -> Mined:
    """The `count` largest of both; among equal alphas those that came first."""
    alphas = np.concatenate([first.alphas, second.alphas], 1)
    order = np.argsort(-alphas, axis=1, kind="stable")[:, :count]
    rows = second.rows
    if first.rows.shape[1]:
        rows = np.concatenate([first.rows, second.rows], 1)
    return Mined(
        np.take_along_axis(rows, order, 1),
        np.take_along_axis(np.concatenate([first.labels, second.labels], 1), order, 1),
        np.take_along_axis(np.concatenate([first.strata, second.strata], 1), order, 1),
        np.take_along_axis(alphas, order, 1),
        np.take_along_axis(
            np.concatenate([first.probabilities, second.probabilities], 1), order, 1
        ),
        np.take_along_axis(np.concatenate([first.predicted, second.predicted], 1), order, 1),
        np.take_along_axis(
            np.concatenate([first.profiles, second.profiles], 1), order[..., None], 1
        ),
    )
