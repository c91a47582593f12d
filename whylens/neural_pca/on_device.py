"""Neural PCA on a device: a GPU forms and solves the matrices of several classes at once.

On a CPU the few eigenvectors that are asked for are found in single precision and made sure in
double (`eigen`). A GPU has double precision to spare, and is kept busy by many matrices, not by one
after the other: so a batch of them is solved whole, which needs no judgement.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whylens.neural_pca.components import (
    ClassComponents,
    from_covariance,
    from_gram,
    require_finite,
    require_two,
    varying,
)
from whylens.neural_pca.moments import Moments

# Bytes of the matrices that are solved at once; the solver needs about twice as many beside them.
AT_ONCE = 2**30
One = TypeVar("One")


class ClassFeatures(NamedTuple):
    """A class: k, w_k [D], b_k, and its images' features [N_k, D], or the moments of them."""

    class_index: int
    weight: NDArray[np.floating[Any]]
    bias: float
    seen: NDArray[np.floating[Any]] | Moments


class Affine:
    """Rows [B, D] to A rows + b, [B, C]: what a head says, or alphas by many components.

    In double precision: single may be TF32 on a GPU, whose three digits order no alphas.
    """

    def __init__(
        self,
        device: str | torch.device,
        matrix: NDArray[np.floating[Any]],
        offset: NDArray[np.floating[Any]],
    ) -> None:
        """A [C, D] and b [C], sent to the device once."""
        self._matrix = torch.tensor(matrix, device=device).double()
        self._offset = torch.tensor(offset, device=device).double()

    def __call__(self, rows: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """As arrays, in and out."""
        there = torch.tensor(rows, device=self._matrix.device).double()
        found: NDArray[np.float32] = (
            torch.nn.functional.linear(there, self._matrix, self._offset).float().cpu().numpy()
        )
        return found


def moments_on(device: str | torch.device, features: NDArray[np.floating[Any]]) -> Moments:
    """As `Moments.of`, of features [N, D]."""
    if len(features) == 0:
        return Moments.empty(features.shape[1])
    rows = torch.tensor(features, device=device).double()
    mean = rows.mean(0)
    rows -= mean
    return Moments(len(rows), mean.cpu().numpy(), (rows.T @ rows).cpu().numpy())


def components_on(
    device: str | torch.device, classes: Sequence[ClassFeatures], top: int
) -> list[ClassComponents]:
    """As `class_components` of each class; of moments those that vary.

    Raises
    ------
    WhylensError
        If a class has fewer than two images, or a feature is not finite.
    """
    found: dict[int, ClassComponents] = {}
    grams: list[tuple[ClassFeatures, NDArray[np.floating[Any]]]] = []
    covariances: list[tuple[ClassFeatures, Moments]] = []
    for one in classes:
        if isinstance(one.seen, Moments):
            require_two(one.seen.count, one.class_index)
            covariances.append((one, one.seen))
            continue
        require_two(len(one.seen), one.class_index)
        if len(one.seen) < one.seen.shape[1]:
            grams.append((one, one.seen))
        else:
            covariances.append((one, moments_on(device, one.seen)))
    for one, moments in covariances:
        require_finite(moments.mean, one.class_index)
    size = max((len(one.weight) for one in classes), default=1)
    for some in _batches(grams, 8 * size * 2 * size):
        found |= _of_grams(device, some, top)
    for few in _batches(covariances, 8 * size * size):
        found |= _of_covariances(device, few, top)
    return [found[one.class_index] for one in classes]


def _batches(every: Sequence[One], each: int) -> Iterator[Sequence[One]]:
    """As many at a time as fit AT_ONCE, of `each` bytes."""
    count = max(1, AT_ONCE // each)
    for start in range(0, len(every), count):
        yield every[start : start + count]


def _of_grams(
    device: str | torch.device,
    classes: Sequence[tuple[ClassFeatures, NDArray[np.floating[Any]]]],
    top: int,
) -> dict[int, ClassComponents]:
    """By class. Shorter ones are filled up with rows of zeros, which add eigenvalues of zero."""
    rows = [np.asarray(one.weight, np.float64) for one, _ in classes]
    longest = max(len(features) for _, features in classes)
    shape = len(classes), longest, len(rows[0])
    centred = torch.zeros(shape, dtype=torch.float64, device=device)
    means = []
    for place, ((one, features), row) in enumerate(zip(classes, rows, strict=True)):
        psi = torch.tensor(features, device=device).double() * torch.tensor(row, device=device)
        mean = psi.mean(0)
        centred[place, : len(psi)] = psi - mean
        means.append(mean.cpu().numpy())
        require_finite(means[-1], one.class_index)
    values, vectors = _largest(centred @ centred.mT, min(top, longest))
    halves = (vectors @ centred).cpu().numpy()
    totals = centred.square().sum((1, 2)).tolist()
    found = {}
    for place, (one, features) in enumerate(classes):
        count = len(features)
        found[one.class_index] = from_gram(
            one.class_index,
            rows[place],
            one.bias,
            count,
            means[place],
            values[place, : count - 1].cpu().numpy(),
            halves[place, : count - 1],
            totals[place],
        )
    return found


def _of_covariances(
    device: str | torch.device, classes: Sequence[tuple[ClassFeatures, Moments]], top: int
) -> dict[int, ClassComponents]:
    """By class."""
    rows = np.stack([np.asarray(one.weight, np.float64) for one, _ in classes])
    matrices = torch.empty(*rows.shape, rows.shape[1], dtype=torch.float64, device=device)
    for place, (_, moments) in enumerate(classes):
        matrices[place] = torch.tensor(moments.scatter, device=device) / moments.count
    weights = torch.tensor(rows, device=device)
    matrices *= weights[:, :, None] * weights[:, None]
    totals = matrices.diagonal(dim1=1, dim2=2).sum(1).tolist()
    values, vectors = _largest(matrices, min(top, rows.shape[1]))
    found = {}
    for place, (one, moments) in enumerate(classes):
        of_class = from_covariance(
            one.class_index,
            rows[place],
            one.bias,
            moments,
            values[place].cpu().numpy(),
            vectors[place].cpu().numpy(),
            totals[place],
        )
        found[one.class_index] = varying(of_class)
    return found


def _largest(matrices: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Falling eigenvalues [B, count] and eigenvectors [B, count, n] of symmetric ones [B, n, n]."""
    values, vectors = torch.linalg.eigh(matrices)
    return values[:, -count:].flip(1), vectors[..., -count:].flip(2).mT
