"""Coarse form or fine detail: which of the two a classifier goes by.

Geirhos et al. 2019 pit the shape of one class against the texture of another. The objects of the
planted world have random colours and no texture of their own, so here the two are parted by scale,
as in hybrid images (Oliva et al. 2006): the coarse part of an image (a Gaussian blur) keeps what
outlines are like, the fine part (the rest) keeps edges and surface.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from whylens.classifiers.classifier import Classifier
from whylens.planted.checks.judges import probabilities
from whylens.planted.drawing.world import OBJECTS

# Where coarse and fine part, in pixels: an outline of 1 px is gone, a fish is still a fish (a
# judge finds 97 % of the objects on the coarse part alone).
BLUR = 2.0


@dataclass(frozen=True)
class Bias:
    """shape_bias: of the hybrids that are called one of their two classes, the share called that
    of the coarse part; decided: the share called one of the two."""

    shape_bias: float
    decided: float


def coarse(images: Tensor) -> Tensor:
    """The coarse part of images [N, 3, H, W]."""
    return torch.from_numpy(gaussian_filter(images.numpy(), (0, 0, BLUR, BLUR)))


def fine(images: Tensor) -> Tensor:
    """The fine part of images [N, 3, H, W], on the mean colour of each."""
    mean = images.mean((2, 3), keepdim=True)
    return (images - coarse(images) + mean).clamp(0, 1)


def hybrids(images: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """(images with another class's fine part, those classes [N]) of images [N, 3, H, W]."""
    rng = np.random.default_rng(seed)
    others = torch.tensor(
        [int(rng.choice(np.flatnonzero(labels.numpy() != int(label)))) for label in labels]
    )
    mixed = coarse(images) + images[others] - coarse(images[others])
    return mixed.clamp(0, 1), labels[others]


def shape_bias(classifier: Classifier, images: Tensor, labels: Tensor, seed: int) -> Bias:
    """The classifier's bias on hybrids of drawn images [N, 3, H, W] with labels [N]."""
    mixed, fine_labels = hybrids(images, labels, seed)
    said = probabilities(classifier, mixed)[:, : len(OBJECTS)].argmax(1)
    by_shape, by_detail = (said == labels).float().mean(), (said == fine_labels).float().mean()
    decided = float(by_shape + by_detail)
    return Bias(round(float(by_shape) / max(decided, 1e-9), 4), round(decided, 4))
