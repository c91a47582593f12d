"""Deep feature reweighting: a head fitted to features of which every group has as many.

Kirichenko, Izmailov and Wilson, "Last Layer Re-Training is Sufficient for Robustness to Spurious
Correlations", 2023: features are standardised, the strength of a logistic regression is chosen by
the worst group's accuracy on a half that it was not fitted to, and heads of several balanced draws
are averaged. It knows the groups; here it is what a repair is compared with that does not.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whylens.errors import UsageError

Array = NDArray[np.float64]
Features = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]

# Inverse strengths of the penalty, as scikit-learn's C, and draws whose heads are averaged.
STRENGTHS = (1.0, 0.3, 0.1, 0.03, 0.01)
DRAWS = 10


@dataclass(frozen=True)
class Reweighted:
    """A new head for a classifier's features: weight [K, D], bias [K]; `strength` is its C."""

    weight: Array
    bias: Array
    strength: float

    @property
    def arrays(self) -> dict[str, Array]:
        """What a repaired classifier is made of, in place of its own head."""
        return {"weight": self.weight, "bias": self.bias}


def reweighted(
    features: Features,
    labels: Labels,
    groups: Labels,
    classes: int,
    *,
    strengths: Sequence[float] = STRENGTHS,
    draws: int = DRAWS,
    seed: int = 0,
) -> Reweighted:
    """A head of K = `classes` from images [N, D], their labels [N] and groups [N].

    A class without images keeps no weight, and a bias below that of all others: it is never said.

    Raises
    ------
    UsageError
        If the images are of one class or one group only, or a group has a single image.
    """
    counts = np.unique(groups, return_counts=True)[1]
    if len(counts) < 2 or len(np.unique(labels)) < 2:
        raise UsageError("there is nothing to balance: the images are of one group or class only")
    if counts.min() < 2:
        raise UsageError("a group has a single image: at least two are needed to balance groups")
    generator = np.random.default_rng(seed)
    strength = strengths[0]
    if len(strengths) > 1:
        half = _halves(groups, generator)
        scores = []
        for one in strengths:
            weight, bias = _head(features[half], labels[half], groups[half], classes, one,
                                 np.random.default_rng(seed), 1)  # fmt: skip
            said = (features[~half] @ weight.T + bias).argmax(1)
            scores.append(worst_group(said == labels[~half], groups[~half]))
        strength = strengths[int(np.argmax(scores))]
    weight, bias = _head(features, labels, groups, classes, strength, generator, draws)
    return Reweighted(weight, bias, strength)


def worst_group(right: NDArray[np.bool_], groups: Labels) -> float:
    """The least accuracy of a group: which images [N] are right, and their groups [N]."""
    return min(float(right[groups == group].mean()) for group in np.unique(groups))


def balanced(groups: Labels, generator: np.random.Generator) -> NDArray[np.int64]:
    """Rows in which every group has as many images as the smallest one, drawn at random."""
    names, counts = np.unique(groups, return_counts=True)
    rows: NDArray[np.int64] = np.concatenate(
        [generator.permutation(np.flatnonzero(groups == g))[: counts.min()] for g in names]
    )
    return rows


def _halves(groups: Labels, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Half of each group, [N]."""
    half = np.zeros(len(groups), bool)
    for group in np.unique(groups):
        rows = generator.permutation(np.flatnonzero(groups == group))
        half[rows[: (len(rows) + 1) // 2]] = True
    return half


def _head(
    features: Features,
    labels: Labels,
    groups: Labels,
    classes: int,
    strength: float,
    generator: np.random.Generator,
    draws: int,
) -> tuple[Array, Array]:
    """The mean head of balanced draws, in units of the features as they are."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    rows = np.asarray(features, np.float64)
    mean, spread = rows.mean(0), np.maximum(rows.std(0), 1e-6)
    present = np.unique(labels)
    weight, bias = np.zeros((classes, rows.shape[1])), np.full(classes, -np.inf)
    bias[present] = 0.0
    for _ in range(draws):
        chosen = balanced(groups, generator)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted = LogisticRegression(C=strength, max_iter=300).fit(
                (rows[chosen] - mean) / spread, labels[chosen]
            )
        turned = fitted.coef_ / spread
        # With two classes scikit-learn gives the second one's row alone.
        turned, shift = (
            (turned, fitted.intercept_)
            if len(present) > 2
            else (np.concatenate([-turned, turned]) / 2, np.r_[-1, 1] * fitted.intercept_ / 2)
        )
        weight[present] += turned / draws
        bias[present] += (shift - turned @ mean) / draws
    bias[np.isinf(bias)] = bias[present].min() - 1e4
    return weight, bias
