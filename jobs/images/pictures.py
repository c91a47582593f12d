"""Image tensors as stored pictures, so that every number in a row belongs to the stored picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from whylens.images.tensors import to_pixels, to_png, to_tensor

if TYPE_CHECKING:
    from whylens.classifiers import Classifier

# A difference of 0.4 is as bright as it gets: most changes are smaller.
DIFFERENCE_GAIN = 2.5


def stored(image: Tensor) -> Tensor:
    """An image [3, H, W] in [0, 1] with the 256 levels a channel that a picture file keeps."""
    return to_tensor(to_pixels(image)).to(image.device)


def png(image: Tensor) -> bytes:
    """An image [3, H, W] in [0, 1] as a PNG file."""
    return to_png(to_pixels(image))


def mask_png(mask: Tensor | None) -> bytes | None:
    """A mask [1, H, W] in [0, 1] as a PNG file, white where it is 1; None where there is none."""
    return None if mask is None else png(mask.expand(3, -1, -1))


def difference(before: Tensor, after: Tensor) -> Tensor:
    """Where two images [3, H, W] in [0, 1] differ: brightened absolute difference, same shape."""
    return (after - before).abs().mul(DIFFERENCE_GAIN).clamp(0, 1)


@torch.no_grad()
def measured(classifier: Classifier, image: Tensor) -> tuple[Tensor, Tensor]:
    """Features [D] and class probabilities [K] of an image [3, H, W] as it is stored."""
    features = classifier.features(stored(image)[None])
    return features[0], classifier.activation(classifier.head(features))[0]
