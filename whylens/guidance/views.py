"""Random views of an image for a classifier: what fools one view seldom fools all of them."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from whylens.guidance.objectives import Objective, Weighted


class Views:
    """Random square cutouts and noise, drawn for each problem from a generator of its own."""

    def __init__(
        self, seeds: Sequence[int], *, cutouts: int, smallest: float, noise: float, power: float = 1
    ) -> None:
        self.generators = [torch.Generator().manual_seed(seed + 7919) for seed in seeds]
        self.cutouts, self.smallest, self.noise, self.power = cutouts, smallest, noise, power

    def gradient(self, objective: Objective, images: Tensor, rows: Sequence[int]) -> Tensor:
        """The objective's gradient at images [b, 3, H, W] of the problems `rows` [b].

        The mean over views of each, drawn anew; of the images themselves where there are none.
        """
        if self.cutouts == 0:
            return objective.value_and_gradient(images)[1]
        return augmented_value_and_gradient(objective, images, rows, self)[1]

    def draw(self, rows: Sequence[int], images: Tensor) -> tuple[Tensor, Tensor]:
        """Grids [V, b, H, W, 2] and noise [V, b, 3, H, W] for the problems `rows` [b]."""
        height, width = images.shape[-2:]
        grids, noises = [], []
        for row in rows:
            generator = self.generators[row]
            drawn = torch.rand(self.cutouts, generator=generator) ** self.power
            sides = self.smallest + (1 - self.smallest) * drawn
            centres = (1 - sides)[:, None] * (
                2 * torch.rand(self.cutouts, 2, generator=generator) - 1
            )
            theta = torch.zeros(self.cutouts, 2, 3)
            theta[:, 0, 0] = theta[:, 1, 1] = sides
            theta[:, :, 2] = centres
            grids.append(
                F.affine_grid(theta, [self.cutouts, 3, height, width], align_corners=False)
            )
            noises.append(torch.randn(self.cutouts, 3, height, width, generator=generator))
        grid, noise = torch.stack(grids, 1), torch.stack(noises, 1) * self.noise
        return grid.to(images), noise.to(images)


def augmented_value_and_gradient(
    objective: Objective, images: Tensor, rows: Sequence[int], views: Views
) -> tuple[Tensor, Tensor]:
    """Mean of the objective over random views of images [b, 3, H, W], and its gradient.

    All terms of a sum get the same views; a term that is none of views gets the images.
    """
    grids, noises = views.draw(rows, images)
    return _over_views(objective, images, grids, noises)


def _over_views(
    objective: Objective, images: Tensor, grids: Tensor, noises: Tensor
) -> tuple[Tensor, Tensor]:
    if isinstance(objective, Weighted):
        return objective.combine(
            [_over_views(term, images, grids, noises) for _, term in objective.terms]
        )
    if not objective.on_views:
        return objective.value_and_gradient(images)
    value = torch.zeros(len(images), device=images.device, dtype=images.dtype)
    gradient = torch.zeros_like(images)
    for grid, noise in zip(grids, noises, strict=True):
        with torch.enable_grad():
            pixels = images.detach().requires_grad_(True)
            view = F.grid_sample(pixels, grid, align_corners=False, padding_mode="border")
            seen = view + noise
        values, gradients = objective.value_and_gradient(seen.detach())
        (back,) = torch.autograd.grad(seen, pixels, gradients)
        value += values / len(grids)
        gradient += back / len(grids)
    return value, gradient
