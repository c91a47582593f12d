"""The sufficiency check: does what a component responds to trigger the class on its own?

A second collection is mined for the images that activate the component most and do not show the
class. If they are classified as it, the feature alone is enough. ("Spurious Features Everywhere",
section 4: OpenImages mined for ImageNet.)
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whylens.neural_pca.components import ClassComponents

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Mined:
    """The most activating images without the class, for each component of a class.

    rows [L, M] into the second collection, by falling alpha; their alphas [L, M], p_k [L, M] and
    whether k is predicted, `predicted` [L, M].
    """

    rows: NDArray[np.int64]
    alphas: Array
    probabilities: Array
    predicted: NDArray[np.bool_]

    @property
    def share(self) -> Array:
        """Share of mined images classified as k, [L]."""
        share: Array = self.predicted.mean(1)
        return share

    @property
    def mean_probability(self) -> Array:
        """Mean p_k over the mined images, [L]."""
        mean: Array = self.probabilities.mean(1)
        return mean


def mine(
    components: ClassComponents,
    features: NDArray[np.floating],
    probabilities: NDArray[np.floating],
    without_class: NDArray[np.bool_],
    count: int,
) -> Mined:
    """Mine a second collection: features [N, D], probabilities [N, K].

    `without_class` [N] tells which images do not show class k; where the second collection has no
    labels, all of them are taken (and the report says so).
    """
    allowed = np.flatnonzero(without_class)
    alphas = components.alphas(features[allowed])
    keep = min(count, len(allowed))
    order = np.argsort(-alphas, axis=0, kind="stable")[:keep].T
    rows = allowed[order]
    k = components.class_index
    return Mined(
        rows,
        np.take_along_axis(alphas.T, order, 1),
        np.asarray(probabilities, dtype=np.float64)[rows, k],
        probabilities.argmax(1)[rows] == k,
    )
