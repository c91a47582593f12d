"""Random views of an image for a classifier: what fools one view seldom fools all of them.

A view is a square of the image at a random place, as the classifier gets it: pooled to its input
size, with noise added there (DiG-IN, section 3). Places are parts of the image, so that classifiers
of different sizes look at the same ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from whylens.batch import Batch, sent
from whylens.guidance.objectives import Objective, Weighted
from whylens.guidance.settings import ViewSettings
from whylens.kernels import cutouts

# Pixels that a classifier gets at once at most: 83 views of 224 px.
AT_ONCE = 2**22


@dataclass(frozen=True)
class Views(Batch):
    """Places and noise of V views of each of b images.

    boxes
        [b, V, 4]: top, left, height and width as parts of the image.
    keys
        [b] int64, of the noise.
    noise
        Its standard deviation.
    """

    boxes: Tensor
    keys: Tensor
    noise: float

    def of(self, images: Tensor, size: int) -> Tensor:
        """The views [V, b, 3, size, size] of images [b, 3, H, W], differentiable."""
        height, width = images.shape[-2:]
        top, left, tall, wide = self.boxes.transpose(0, 1).unbind(-1)
        boxes = torch.stack([top * height, left * width, tall * height, wide * width], -1)
        return cutouts(images, boxes, self.keys, size=size, noise=self.noise)


class ViewGenerator:
    """Draws views, anew at each call, for each problem from a generator of its own."""

    def __init__(self, seeds: Sequence[int], settings: ViewSettings) -> None:
        self.generators = [torch.Generator().manual_seed(seed + 7919) for seed in seeds]
        self.settings = settings

    def draw(self, rows: Sequence[int], device: torch.device) -> Views:
        """Views of the problems `rows` [b]."""
        boxes, keys = zip(*(self._one(self.generators[row]) for row in rows), strict=True)
        return Views(
            sent(torch.stack(boxes), device), sent(torch.cat(keys), device), self.settings.noise
        )

    def _one(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Boxes [V, 4] and the key [1] of one problem."""
        sides = self._sides(generator)
        corners = (1 - sides) * torch.rand(len(sides), 2, generator=generator)
        boxes = torch.cat([corners.flip(1), sides, sides], 1)
        return boxes, torch.randint(2**63 - 1, (1,), generator=generator)

    def _sides(self, generator: torch.Generator) -> Tensor:
        """Sides [V, 1] of the squares, from the smallest to the image's: by U^power in between."""
        smallest = self.settings.smallest
        drawn = torch.rand(self.settings.cutouts, 1, generator=generator) ** self.settings.power
        return smallest + (1 - smallest) * drawn


def over_views(objective: Objective, images: Tensor, views: Views) -> tuple[Tensor, Tensor]:
    """Mean [b] of the objective over views of images [b, 3, H, W], and its gradient by them.

    All terms of a sum get the same views; a term that is none of views gets the images.
    """
    if isinstance(objective, Weighted):
        return objective.combine([over_views(term, images, views) for _, term in objective.terms])
    if not objective.on_views:
        return objective.value_and_gradient(images)
    with torch.enable_grad():
        pixels = images.detach().requires_grad_(True)
        seen = views.of(pixels, objective.view_size or images.shape[-1])
    # V b views are views of as many problems.
    owners = torch.arange(len(images), device=images.device).repeat(len(seen))
    values, gradients = _in_parts(objective, seen.detach().flatten(0, 1), owners)
    (back,) = torch.autograd.grad(seen, pixels, gradients.view_as(seen) / len(seen))
    return values.view(len(seen), -1).mean(0), back


def _in_parts(objective: Objective, images: Tensor, owners: Tensor) -> tuple[Tensor, Tensor]:
    """The objective of images [n, 3, H, W] of the problems `owners` [n], as many as fit at once."""
    count = max(1, AT_ONCE // images[0, 0].numel())
    while True:
        try:
            parts = [
                objective.select(owners[start : start + count]).value_and_gradient(
                    images[start : start + count]
                )
                for start in range(0, len(images), count)
            ]
            break
        except torch.OutOfMemoryError:
            if count == 1:
                raise
            count = min(count, len(images)) // 2 or 1
    if len(parts) == 1:
        return parts[0]
    values, gradients = zip(*parts, strict=True)
    return torch.cat(values), torch.cat(gradients)
