"""What an objective says of latents, and the pull of that, led back to them through the decoder."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from whylens.diffusion.sampler import Sampler
from whylens.guidance.objectives import Objective
from whylens.guidance.problems import Problems
from whylens.guidance.views import Views, over_views


class Seen(NamedTuple):
    """What latents decode to, [b, 3, S, S]; losses [b] of that; the pull at the latents."""

    images: Tensor
    losses: Tensor
    pulls: Tensor


def look(
    sampler: Sampler,
    problems: Problems,
    objective: Objective,
    latents: Tensor,
    views: Views | None,
    *,
    gradient: bool = True,
    decode: Callable[[Tensor], Tensor] | None = None,
) -> Seen:
    """The objective of latents [b, c, h, w], and its gradient there, over views if there are any.

    No more decoder graphs than `sampler.decoded_at_once` are alive, and none afterwards: images are
    decoded, shown to the objective and led back to their latents part by part.
    """
    if (count := sampler.decoded_at_once) < len(latents):
        parts = []
        for start in range(0, len(latents), count):
            rows = torch.arange(len(latents), device=latents.device)[start : start + count]
            own = None if views is None else views.select(rows)
            some = problems.select(rows), objective.select(rows)
            parts.append(look(sampler, *some, latents[rows], own, gradient=gradient, decode=decode))
        return Seen(*(torch.cat(values) for values in zip(*parts, strict=True)))
    with torch.set_grad_enabled(gradient):
        leaf = latents.detach().requires_grad_(gradient)
        images = problems.shown((decode or sampler.decode)(leaf))
    shown = images.detach()
    if not gradient:
        return Seen(shown, objective.value_only(shown), torch.zeros_like(latents))
    if views is None:
        losses, at_images = objective.value_and_gradient(shown)
    else:
        losses = objective.value_only(shown)
        _, at_images = over_views(objective, shown, views)
    (pulls,) = torch.autograd.grad(images, leaf, at_images.to(images))
    return Seen(shown, losses, pulls)
