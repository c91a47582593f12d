"""DVCE: the classifier's gradient added at each denoising step of a noised image.

Augustin, Boreiko, Croce and Hein, "Diffusion visual counterfactual explanations" (NeurIPS 2022).
With mu and s the mean and variance of a step's ancestral distribution, the mean becomes

    mu + s |mu| (c_class u(g) - c_distance u(grad d)),    u(v) = v / |v|,

g the gradient of log p(target) at the step's x0 prediction, d the L1 distance of that prediction to
the image, both differentiated through the one prediction. Where a robust classifier is given, g is
its gradient projected onto the cone of `angle` around the explained classifier's gradient: away
from noise, and an ascent direction for the explained classifier still. The paper's diffusion model
knows no prompt and has no autoencoder; here latents are moved, under the empty prompt.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from whylens.diffusion.conditioning import Embeddings, condition
from whylens.diffusion.sampler import Sampler
from whylens.guidance.baselines.denoising import (
    Noise,
    StepImage,
    later_steps,
    length,
    noised,
    unit,
)
from whylens.guidance.baselines.interface import check_batch, shown
from whylens.guidance.baselines.settings import DvceSettings
from whylens.guidance.objectives import PixelDistance, TargetClass
from whylens.guidance.state import State


def diffusion_counterfactual(
    sampler: Sampler,
    images: Tensor,
    prompts_before: Sequence[str],
    prompts_after: Sequence[str],
    targets: Tensor,
    classifier: Any,
    settings: DvceSettings,
    *,
    robust: Any | None = None,
    seeds: Sequence[int] | None = None,
) -> Iterator[State]:
    """Denoise noised images [B, 3, S, S] in [0, 1] towards `targets` [B]; prompts play no part.

    Raises
    ------
    ValueError
        If prompts, targets or seeds are not as many as the images.
    UsageError
        If a classifier lacks a target.
    """
    seeds = check_batch(images, prompts_before, prompts_after, targets, seeds)
    wanted, near = TargetClass(classifier, targets), PixelDistance(images, power=1)
    visible = None if robust is None else TargetClass(robust, targets)
    noise = Noise(seeds)
    times = later_steps(sampler, settings.steps, settings.start)
    with torch.no_grad():
        latents = sampler.encode(images)
        conditioning = condition(sampler, [""] * len(images))
        null = Embeddings(conditioning.null, conditioning.null, conditioning.null_pooled)
    latents = noised(latents, times[0].alpha_bar, noise.like(latents))
    yield shown(0, images, wanted.value_and_gradient(images)[0])
    for number, step in enumerate(times, start=1):
        seen = StepImage(sampler, latents, null, step)
        values, loss_slope = seen.gradient(wanted)
        ascent = -loss_slope
        if visible is not None:
            ascent = onto_cone(-seen.gradient(visible)[1], ascent, settings.angle)
        _, away = seen.gradient(near, last=True)
        mean, variance = ancestral(latents, seen.x0, step.alpha_bar, step.alpha_bar_after)
        direction = settings.class_weight * unit(ascent) - settings.distance_weight * unit(away)
        latents = mean + variance * length(mean) * direction
        latents = latents + variance**0.5 * noise.like(latents)
        yield shown(number, seen.image, values)
    with torch.no_grad():
        after = sampler.decode(latents)
    yield shown(len(times) + 1, after, wanted.value_and_gradient(after)[0])


def ancestral(
    latents: Tensor, x0: Tensor, alpha_bar: float, alpha_bar_after: float
) -> tuple[Tensor, float]:
    """Mean [B, c, h, w] and variance of q(z after | z, x0) (Ho et al. 2020, equation 7)."""
    kept = alpha_bar / alpha_bar_after
    variance = (1 - alpha_bar_after) / (1 - alpha_bar) * (1 - kept)
    of_x0 = alpha_bar_after**0.5 * (1 - kept) / (1 - alpha_bar)
    of_latents = kept**0.5 * (1 - alpha_bar_after) / (1 - alpha_bar)
    return of_x0 * x0 + of_latents * latents, variance


def onto_cone(vectors: Tensor, axes: Tensor, angle: float) -> Tensor:
    """The nearest vectors to `vectors` in the cones of `angle` degrees (< 90) around `axes`.

    [B, ...] both, each problem's a vector of its own; the angle is from axis to edge. A vector
    inside stays; one whose nearest point is the cone's tip, zero, gives the axis' direction at
    its own length, since it is a direction that is asked for. Where there is no axis, the vector
    stays.
    """
    shape = vectors.shape
    v, axis = vectors.flatten(1), axes.flatten(1)
    axis = axis / axis.norm(dim=1, keepdim=True).clamp_min(1e-20)
    along = (v * axis).sum(1, keepdim=True)
    across = v - along * axis
    width = across.norm(dim=1, keepdim=True)
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    edge = cosine * axis + sine * across / width.clamp_min(1e-20)
    reach = cosine * along + sine * width
    inside = (along >= 0) & (width * cosine <= along * sine)
    size = v.norm(dim=1, keepdim=True)
    nearest = torch.where(reach > 0, reach * edge, size * axis)
    no_axis = axes.flatten(1).norm(dim=1, keepdim=True) == 0
    return torch.where(inside | no_axis, v, nearest).view(shape)
