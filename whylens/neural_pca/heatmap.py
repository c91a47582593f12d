"""Where in an image a component sits.

Where features are the mean of a feature map, alpha_l is the mean over positions of <d_l, map> minus
a constant: the map of <d_l, map(position)> is exact. Elsewhere the gradient of alpha by the image,
times the image's deviation from grey, stands in.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F


def component_heatmap(classifier: Any, images: Tensor, direction: Tensor) -> Tensor:
    """Images [B, 3, H, W] in [0, 1], d_l [D] (or [B, D]) -> heat [B, H, W].

    The mean over positions of an exact map is <d_l, phi(x)>; negative where the component is
    pushed down.
    """
    rows = direction.to(images).expand(len(images), -1)
    size = images.shape[-2:]
    with torch.no_grad():
        features = classifier.feature_map(images)
    if features is not None:
        coarse = torch.einsum("bd,bdhw->bhw", rows, features)
        return F.interpolate(coarse[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    return _gradient_map(classifier, images, rows)


def _gradient_map(classifier: Any, images: Tensor, rows: Tensor) -> Tensor:
    pixels = images.detach().clone().requires_grad_(True)
    alpha = (classifier.features(pixels) * rows).sum()
    (gradient,) = torch.autograd.grad(alpha, pixels)
    heat = (gradient * (pixels.detach() - 0.5)).sum(1, keepdim=True)
    # Single pixels of a gradient are noise; a blur of a sixteenth of the image is readable.
    kernel = max(3, images.shape[-1] // 16 // 2 * 2 + 1)
    return F.avg_pool2d(heat, kernel, 1, kernel // 2, count_include_pad=False)[:, 0]


def overlay(image: NDArray[np.uint8], heat: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Heat [H, W] laid over an image [H, W, 3] uint8: bright where the component is raised."""
    import matplotlib

    positive = np.clip(np.asarray(heat, dtype=np.float64), 0, None)
    strength = positive / max(float(positive.max(initial=0)), 1e-12)
    colours = matplotlib.colormaps["inferno"](strength)[..., :3]
    share = (0.15 + 0.6 * strength)[..., None]
    grey = image.mean(2, keepdims=True) / 255
    mixed = (0.6 * grey + 0.4 * image / 255) * (1 - share) + colours * share
    blended: NDArray[np.uint8] = np.round(np.clip(mixed, 0, 1) * 255).astype(np.uint8)
    return blended
