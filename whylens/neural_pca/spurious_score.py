"""The spurious score: do a class's images get a higher p_k than images of its spurious feature?

Neuhaus et al., "Spurious Features Everywhere", ICCV 2023, section 5. The paper speaks of the AUC;
its code, and so its figures, are average precision: that is the spurious score here too, with the
ROC AUC beside it under its own name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from whylens.errors import WhylensError


@dataclass(frozen=True)
class Separation:
    """How well p_k tells a class's images from its spurious images; both in [0, 1], 1 is best."""

    average_precision: float
    roc_auc: float


def separation(positives: ArrayLike, negatives: ArrayLike) -> Separation:
    """p_k of the class's validation images [P] against p_k of its spurious images [N].

    Images of equal p_k are one step of both curves, whatever their order.

    Raises
    ------
    WhylensError
        If there are none on one side, or a value is not finite.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    inside, outside = (np.asarray(p, dtype=np.float64).ravel() for p in (positives, negatives))
    if not inside.size or not outside.size:
        raise WhylensError(
            f"{inside.size} images of the class, {outside.size} spurious ones: a score needs both"
        )
    p = np.concatenate([inside, outside])
    if not np.isfinite(p).all():
        raise WhylensError(
            f"{int((~np.isfinite(p)).sum())} of {p.size} probabilities aren't finite"
        )
    truth = np.r_[np.ones(inside.size), np.zeros(outside.size)]
    return Separation(float(average_precision_score(truth, p)), float(roc_auc_score(truth, p)))


def spurious_scores(
    p: NDArray[np.float64],
    labels: NDArray[np.int64],
    spurious_p: NDArray[np.float64],
    spurious_for: NDArray[np.int64],
) -> dict[int, Separation]:
    """Each class that has images on both sides, by index.

    Parameters
    ----------
    p, labels
        Validation images [N]: the class that each shows, and its probability.
    spurious_p, spurious_for
        Spurious images [M]: the class that each is spurious for, and its probability.
    """
    classes = np.intersect1d(labels, spurious_for)
    return {int(k): separation(p[labels == k], spurious_p[spurious_for == k]) for k in classes}


def joint_separation(
    p: NDArray[np.float64],
    labels: NDArray[np.int64],
    spurious_p: NDArray[np.float64],
    spurious_for: NDArray[np.int64],
) -> Separation:
    """All classes' images under one curve; parameters as for `spurious_scores`.

    Beside the mean over classes it asks that p means the same for each: a classifier that is surer
    of one class's spurious features than of another class's images loses here. The published code's
    joint score is its average precision.
    """
    classes = np.intersect1d(labels, spurious_for)
    inside, outside = np.isin(labels, classes), np.isin(spurious_for, classes)
    return separation(p[inside], spurious_p[outside])


def mean_separation(scores: Mapping[int, Separation]) -> Separation:
    """The mean over classes: its average precision is the classifier's spurious score."""
    if not scores:
        raise WhylensError("no class has both validation and spurious images: there is no score")
    return Separation(
        float(np.mean([s.average_precision for s in scores.values()])),
        float(np.mean([s.roc_auc for s in scores.values()])),
    )
