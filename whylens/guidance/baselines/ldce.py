"""LDCE: guidance of latents at each step, where classifier and prompt agree on the place.

Farid, Schrodi, Argus and Brox, "Latent diffusion counterfactual explanations" (2023). With e_0 and
e_1 the predicted noise without and with the target's prompt, s = e_1 - e_0 what the prompt asks
for, and g = -sqrt(1 - a) grad log p(target) at the step's x0 prediction, a DDIM step is taken with

    e_0 + guidance_scale |s| (class_weight u(filter(g)) + distance_weight u(grad d)),

u(v) = v / |v|, d the L1 distance of the prediction to the image. The consensus filter
removes g at each place of the latents where its angle with s is larger than `angle`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from whylens.diffusion.conditioning import Embeddings, condition
from whylens.diffusion.sampler import Sampler
from whylens.errors import UsageError
from whylens.guidance.baselines.denoising import (
    Noise,
    StepImage,
    later_steps,
    length,
    noise_in,
    noised,
    predict,
    unit,
)
from whylens.guidance.baselines.interface import check_batch, shown
from whylens.guidance.baselines.settings import LdceSettings
from whylens.guidance.objectives import PixelDistance, TargetClass
from whylens.guidance.state import State


def latent_counterfactual(
    sampler: Sampler,
    images: Tensor,
    prompts_before: Sequence[str],
    prompts_after: Sequence[str],
    targets: Tensor,
    classifier: Any,
    settings: LdceSettings,
    *,
    seeds: Sequence[int] | None = None,
) -> Iterator[State]:
    """Denoise noised images [B, 3, S, S] in [0, 1] towards `targets` [B] and `prompts_after`.

    Raises
    ------
    ValueError
        If prompts, targets or seeds are not as many as the images.
    UsageError
        If the classifier lacks a target, or the chain would begin at noise alone.
    """
    seeds = check_batch(images, prompts_before, prompts_after, targets, seeds)
    wanted, near = TargetClass(classifier, targets), PixelDistance(images, power=1)
    times = later_steps(sampler, settings.steps, settings.start)
    if times[0].alpha_bar == 0:
        raise UsageError(
            f"ldce: at start = {settings.start:g} the sampler {sampler.name!r} is at noise alone, "
            "which shows nothing of the image: lower baseline.ldce.start"
        )
    with torch.no_grad():
        latents = sampler.encode(images)
        conditioning = condition(sampler, list(prompts_after))
        text, null_text = conditioning.text, conditioning.null
        prompt = Embeddings(text, null_text, conditioning.pooled)
        null = Embeddings(null_text, null_text, conditioning.null_pooled)
    latents = noised(latents, times[0].alpha_bar, Noise(seeds).like(latents))
    yield shown(0, images, wanted.value_and_gradient(images)[0])
    for number, step in enumerate(times, start=1):
        a, a_after = step.alpha_bar, step.alpha_bar_after
        seen = StepImage(sampler, latents, prompt, step)
        values, slope = seen.gradient(wanted)
        _, away = seen.gradient(near, last=True)
        with torch.no_grad():
            noise = noise_in(latents, predict(sampler, latents, null, step), a)
            asked = noise_in(latents, seen.x0, a) - noise
            guided = settings.class_weight * unit(agreed(slope, asked, settings.angle))
            guided = length(asked) * (guided + settings.distance_weight * unit(away))
            noise = noise + settings.guidance_scale * guided
            x0 = (latents - (1 - a) ** 0.5 * noise) / a**0.5
            latents = a_after**0.5 * x0 + (1 - a_after) ** 0.5 * noise
        yield shown(number, seen.image, values)
    with torch.no_grad():
        after = sampler.decode(latents)
    yield shown(len(times) + 1, after, wanted.value_and_gradient(after)[0])


def agreed(gradients: Tensor, reference: Tensor, angle: float) -> Tensor:
    """Gradients [B, c, h, w], zero at places where their angle with `reference` is larger.

    A place is one position of the latents, its angle, in degrees, that of vectors of c numbers.
    """
    cosine = F.cosine_similarity(gradients, reference, dim=1, eps=1e-20).clamp(-1, 1)
    kept = torch.rad2deg(torch.acos(cosine)) <= angle
    return gradients * kept[:, None]
