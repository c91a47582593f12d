"""Measures of counterfactuals: how far they are from the image, where, and how realistic.

Images are [B, 3, H, W] in [0, 1]. Whatever judges them should not have taken part in making them.
"""

from collections.abc import Hashable, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from whylens.classifiers import Classifier
from whylens.classifiers.curves import replaced

BATCH = 64


def l1(before: Tensor, after: Tensor) -> Tensor:
    """Mean absolute change of an image's numbers, [B]."""
    return (after - before).abs().flatten(1).mean(1)


def l2(before: Tensor, after: Tensor) -> Tensor:
    """Root of the summed squared change, [B]."""
    length: Tensor = (after - before).flatten(1).norm(dim=1)
    return length


def change_by_place(before: Tensor, after: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Mean absolute change (inside, outside) the object, [B] each; NaN where nothing is.

    masks [B, H, W] are true where the object is. A counterfactual may put another shape there: grow
    the masks (`grown`) by what that needs.
    """
    change = (after - before).abs().mean(1)
    inside, outside = masks.to(change), (~masks).to(change)
    within, beyond = ((change * part).sum((1, 2)) / part.sum((1, 2)) for part in (inside, outside))
    return within, beyond


def grown(masks: Tensor, margin: int) -> Tensor:
    """Masks [B, H, W] with all pixels at most `margin` away along both axes."""
    wide = F.max_pool2d(masks[:, None].float(), 2 * margin + 1, stride=1, padding=margin)
    return wide[:, 0] > 0


@torch.inference_mode()
def features_of(classifier: Classifier, images: Tensor) -> Tensor:
    """phi [B, D], a few images at a time."""
    return torch.cat([classifier.features(part) for part in torch.split(images, BATCH)])


def feature_distance(one: Tensor, other: Tensor) -> Tensor:
    """1 - cosine of images' features [B, D] (of `features_of`), [B] in [0, 2]."""
    return 1 - F.cosine_similarity(one, other, dim=1)


def split_frechet(before: ArrayLike, after: ArrayLike, seed: int = 0) -> float:
    """Frechet distance between counterfactuals and images that they were not made of: sFID.

    Features [N, D] of the images before, and of what each became. Images are split into halves at
    random; one half's before is held to the other half's after, both ways, and the mean is taken
    (Jeanneret, Simon and Jurie, "ACE", 2023). Before against after of the same images is lower for
    whatever changes little.

    Raises
    ------
    ValueError
        If there are fewer than four images, or the sets' shapes differ.
    """
    a, b = (np.asarray(rows, dtype=np.float64) for rows in (before, after))
    if a.shape != b.shape or len(a) < 4:
        raise ValueError(f"needs four images at least, before and after, not {a.shape}, {b.shape}")
    order = np.random.default_rng(seed).permutation(len(a))
    one, other = order[: len(a) // 2], order[len(a) // 2 :]
    return (frechet(a[one], b[other]) + frechet(a[other], b[one])) / 2


def diversity(features: ArrayLike, groups: Sequence[Hashable]) -> float | None:
    """How far counterfactuals of one image are apart: mean pairwise 1 - cosine, in [0, 2].

    Features [N, D], and which images [N] they were made of. The mean over pairs of one image, then
    over images that have several; None where none has. (Jeanneret, Simon and Jurie, "DiME", 2022:
    sigma_L, whose distance is LPIPS.)
    """
    rows = np.asarray(features, dtype=np.float64)
    of_group: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        of_group.setdefault(group, []).append(row)
    means = []
    for places in of_group.values():
        if len(places) > 1:
            own = rows[places] / np.linalg.norm(rows[places], axis=1, keepdims=True)
            pairs = np.triu_indices(len(places), 1)
            means.append(1 - (own @ own.T)[pairs].mean())
    return float(np.mean(means)) if means else None


@torch.inference_mode()
def transition(
    classifier: Classifier,
    before: Tensor,
    after: Tensor,
    sources: Tensor,
    targets: Tensor,
    steps: int = 50,
) -> Tensor:
    """How soon a change takes the decision along, [B] in [-1, 1]: COUT.

    Pixels that changed most are put into the image first, an equal number a step; the area under
    p of the target [B] minus that under p of the source [B], over the part of the pixels that was
    put in (Khorram and Fuxin, "Cycle-Consistent Counterfactuals", 2022). 1: the first few pixels
    decide.
    """
    curves = []
    for mixed in replaced(before, after, (after - before).abs().sum(1), steps):
        p = torch.cat([classifier.probabilities(part) for part in torch.split(mixed, BATCH)])
        curves.append(p.gather(1, targets[:, None]) - p.gather(1, sources[:, None]))
    areas: Tensor = torch.trapezoid(torch.cat(curves, 1), dx=1 / steps, dim=1)
    return areas


def frechet(one: ArrayLike, other: ArrayLike) -> float:
    """Frechet distance of two sets of features [N, D], [M, D] taken as Gaussians.

    |m - n|^2 + tr(A + B - 2 (A B)^(1/2)), m, n the means and A, B the covariances, in float64
    (Heusel et al. 2017, equation 6). The trace of the root is the sum of the roots of the
    eigenvalues of A^(1/2) B A^(1/2), which is symmetric, so that no root is complex. Few images
    make it too large, the more the fewer: compare sets of the same size.

    Raises
    ------
    ValueError
        If a set has fewer than two rows, or the widths differ.
    """
    a, b = (np.asarray(rows, dtype=np.float64) for rows in (one, other))
    if min(len(a), len(b)) < 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"needs two rows at least of one width, not {a.shape} and {b.shape}")
    return frechet_of_gaussians(a.mean(0), np.cov(a.T), b.mean(0), np.cov(b.T))


def frechet_of_gaussians(
    mean: NDArray[np.float64],
    covariance: ArrayLike,
    other_mean: NDArray[np.float64],
    other_covariance: ArrayLike,
) -> float:
    """The distance of two Gaussians by means [D] and covariances [D, D]."""
    a, b = np.atleast_2d(covariance), np.atleast_2d(other_covariance)
    values, vectors = np.linalg.eigh(a)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    inner = np.linalg.eigvalsh(root @ b @ root)
    gap = mean - other_mean
    return float(gap @ gap + np.trace(a) + np.trace(b) - 2 * np.sqrt(inner.clip(min=0)).sum())
