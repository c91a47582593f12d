"""SpuFix: a class's logit without what its spurious components add to it.

    f_k(x) <- f_k(x) - sum_{l in S_k} max(alpha_l(x), 0)

("Spurious Features Everywhere", section 5.) alpha_l is affine in phi, and so is beta_j, what takes
its place when the fix is transferred to another classifier. Both are therefore rows of one form,
max(<d, phi> - c, 0), which a network can carry as further features of a linear head.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whylens.errors import UsageError, WhylensError
from whylens.neural_pca.components import ClassComponents

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SpuFix:
    """What is taken from logits: for each row m, max(<d_m, phi> - c_m, 0) from the class k_m.

    Attributes
    ----------
    classes
        k_m, [M].
    components
        The component of the class that each row stands for, [M].
    directions, offsets
        d_m, [M, D], and c_m, [M].
    """

    classes: NDArray[np.int64]
    components: NDArray[np.int64]
    directions: Array
    offsets: Array

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """What a repaired classifier is made of, beside its own head (`whylens.classifiers`)."""
        return {"directions": self.directions, "offsets": self.offsets, "classes": self.classes}

    def removed(self, features: NDArray[np.floating]) -> Array:
        """Features [N, D] -> what each row takes from its class's logit, [N, M], >= 0."""
        rows = np.asarray(features, dtype=np.float64)
        removed: Array = np.maximum(rows @ self.directions.T - self.offsets, 0)
        return removed

    def fix(self, features: NDArray[np.floating], logits: NDArray[np.floating]) -> Array:
        """Logits [N, K] of features [N, D], without the spurious components."""
        fixed = np.array(logits, dtype=np.float64)
        np.subtract.at(fixed.T, self.classes, self.removed(features).T)
        return fixed


def spufix(components: Iterable[ClassComponents], spurious: Mapping[int, Sequence[int]]) -> SpuFix:
    """The fix of a classifier by its own components; `spurious` maps a class to components.

    Raises
    ------
    UsageError
        If a class has no components, or not as many as are named; all of them are listed.
    """
    by_class = {found.class_index: found for found in components}
    _require_known(by_class, spurious)
    parts = [_own(by_class[k], chosen) for k, chosen in sorted(spurious.items()) if len(chosen)]
    return _joined(parts)


def transfer(
    fix: SpuFix,
    features: NDArray[np.floating],
    other_features: NDArray[np.floating],
    labels: NDArray[np.integer],
    other_weight: NDArray[np.floating],
) -> SpuFix:
    """The same fix for another classifier, with no new labels.

    For a class k, u_l = normalise(sum_i alpha_l(x_i) (psi'_k(x_i) - mean'_k)) over its training
    images; lambda = (U^T U)^-1 U^T (psi'_k(x) - mean'_k), as the u are not orthogonal; and
    beta_j = lambda_j <1, u_j> takes the place of alpha_j. Directions that depend on each other
    share what they explain (the pseudo-inverse).

    Parameters
    ----------
    features, other_features
        Both classifiers' features of the same training images, [N, D] and [N, D'].
    labels
        Their classes, [N].
    other_weight
        The other classifier's head W', [K, D'].

    Raises
    ------
    WhylensError
        If a class of the fix has fewer than two training images.
    """
    parts = []
    for k in np.unique(fix.classes):
        rows, mine = np.flatnonzero(fix.classes == k), labels == k
        if int(mine.sum()) < 2:
            raise WhylensError(
                f"class {k} has {int(mine.sum())} training images: at least two are needed to "
                "transfer its fix"
            )
        alphas = np.asarray(features[mine], np.float64) @ fix.directions[rows].T
        weight = np.asarray(other_weight[k], np.float64)
        psi = np.asarray(other_features[mine], np.float64) * weight
        mean = psi.mean(0)
        # The alphas' own mean adds nothing: centred psi sum to zero.
        moved = (alphas - alphas.mean(0)).T @ (psi - mean)
        length = np.linalg.norm(moved, axis=1, keepdims=True)
        if (length[:, 0] == 0).any():
            raise WhylensError(
                f"class {k}: the other classifier's features don't vary with what the spurious "
                "components respond to"
            )
        units = moved / length
        # Rows of (U^T U)^-1 U^T, each scaled by <1, u_j>.
        readout = units.sum(1)[:, None] * np.linalg.pinv(units.T)
        parts.append(
            SpuFix(
                np.full(len(rows), k, np.int64),
                fix.components[rows],
                readout * weight,
                readout @ mean,
            )
        )
    return _joined(parts)


def _own(found: ClassComponents, chosen: Sequence[int]) -> SpuFix:
    rows = np.asarray(sorted(set(chosen)), dtype=np.int64)
    classes = np.full(len(rows), found.class_index, np.int64)
    return SpuFix(classes, rows, found.directions[rows], found.offsets[rows])


def _joined(parts: Sequence[SpuFix]) -> SpuFix:
    if not parts:
        raise UsageError("there is no spurious component to fix")
    return SpuFix(
        np.concatenate([p.classes for p in parts]),
        np.concatenate([p.components for p in parts]),
        np.concatenate([p.directions for p in parts]),
        np.concatenate([p.offsets for p in parts]),
    )


def _require_known(
    by_class: Mapping[int, ClassComponents], spurious: Mapping[int, Sequence[int]]
) -> None:
    wrong = []
    for k, chosen in sorted(spurious.items()):
        if k not in by_class:
            wrong.append(f"class {k} has no components")
            continue
        there = len(by_class[k].variances)
        wrong += [
            f"class {k} has the components 0 to {there - 1}, not {component}"
            for component in chosen
            if not 0 <= component < there
        ]
    if wrong:
        raise UsageError("; ".join(wrong))
