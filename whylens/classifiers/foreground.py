"""How much a classifier looks at the object, and how much at the rest of the picture.

Moayeri et al., "Hard ImageNet: Segmentations for Objects with Strong Spurious Cues", 2022: accuracy
under noise on the object alone, and on everything but the object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def noisy(
    images: Tensor, masks: Tensor, sigma: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Images [N, 3, H, W] in [0, 1] with noise on the object, and with the same noise off it.

    Parameters
    ----------
    masks
        Where the object is, [N, 1, H, W], 0 or 1.
    sigma
        The noise's standard deviation; values are cut to [0, 1].
    """
    import torch

    noise = sigma * torch.randn(images.shape, generator=generator, dtype=images.dtype)
    noise, masks = noise.to(images.device), masks.to(images)
    return (images + masks * noise).clamp(0, 1), (images + (1 - masks) * noise).clamp(0, 1)


def relative_foreground_sensitivity(foreground: float, background: float) -> float:
    """RFS of the accuracies under noise on the object and off it, in [-1, 1].

    (a_bg - a_fg) / (2 min(a, 1 - a)) with a their mean: the difference over the largest one that
    this mean allows. 1: noise on the object costs all that it can; below 0: noise elsewhere costs
    more. 0 where the mean is 0 or 1.
    """
    mean = (foreground + background) / 2
    room = 2 * min(mean, 1 - mean)
    return (background - foreground) / room if room > 0 else 0.0
