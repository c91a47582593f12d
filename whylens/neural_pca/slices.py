"""Slices: mistakes of a labelled collection that are alike, and what in the logit made them.

Eyuboglu et al., "Domino", 2022, ask so for clusters of errors in an embedding of images and text;
here mistakes are grouped in the classifier's own features, and explained by its own components.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from whylens.neural_pca.components import ClassComponents
from whylens.neural_pca.index.searchable import Searchable
from whylens.neural_pca.systematic import Gathered, SystematicError, systematic_errors

Array = NDArray[np.float64]


def slices(
    index: Searchable,
    labels: NDArray[np.integer[Any]],
    predicted: NDArray[np.integer[Any]],
    probabilities: NDArray[np.floating[Any]],
    k: int,
    *,
    least: int = 10,
) -> list[SystematicError]:
    """Groups of images that are called class k and are not, the largest first.

    Parameters
    ----------
    labels, predicted, probabilities
        Of every row of the index, [N]: its class (negative: none, such images are passed over), the
        class that it is called, and p_k.
    least
        Smaller groups are left out.
    """
    rows = np.arange(len(labels))
    absent = (labels >= 0) & (labels != k)
    found = Gathered(rows, rows * 0, absent & (predicted == k), absent, True)
    return systematic_errors(index, found, probabilities, labels, least=least)


def leading_components(
    components: ClassComponents, mistaken: Array, others: Array
) -> tuple[NDArray[np.int64], Array]:
    """What of a class's logit sets mistaken images apart: components [L], and their shares [L].

    A component's share is the difference of its mean alpha over that of the logit, between the
    images of a slice and others that are not of the class, features [D] (means) each: over all D
    components shares add up to 1. The largest come first.
    """
    gap = np.asarray(mistaken, np.float64) - others
    total = float(gap @ components.weight)
    shares: Array = (components.directions @ gap) / (total if abs(total) > 1e-9 else 1e-9)
    order = np.argsort(-shares, kind="stable")
    return order, shares[order]
