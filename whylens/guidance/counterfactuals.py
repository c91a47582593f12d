"""Counterfactuals: the smallest realistic change that makes a classifier say the target.

The image is inverted, its prompt's class word is changed, and the chain is optimised towards the
target and towards the image. ("DiG-IN", section 5: universal visual counterfactuals.)
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from whylens.diffusion.chain import condition, invert
from whylens.diffusion.sampler import Sampler
from whylens.guidance.objectives import PixelDistance, TargetClass
from whylens.guidance.optimiser import OnStep, Problem, Solution, optimise
from whylens.guidance.settings import GuidanceSettings


def counterfactual(
    sampler: Sampler,
    images: Tensor,
    prompts_before: Sequence[str],
    prompts_after: Sequence[str],
    targets: Tensor,
    classifier: Any,
    settings: GuidanceSettings,
    *,
    seeds: Sequence[int] | None = None,
    on_step: OnStep | None = None,
) -> list[Solution]:
    """Change images [B, 3, S, S] in [0, 1] until the classifier says `targets` [B].

    `prompts_before` say what the images show, `prompts_after` what they should show. A solution's
    start image is the edit before any optimisation.

    Raises
    ------
    ValueError
        If prompts, targets or seeds are not as many as the images.
    """
    seeds = range(len(images)) if seeds is None else seeds
    for name, given in (
        ("prompts_before", prompts_before),
        ("prompts_after", prompts_after),
        ("targets", targets),
        ("seeds", seeds),
    ):
        if len(given) != len(images):
            raise ValueError(f"{name} has {len(given)} entries for {len(images)} images")
    latents = sampler.encode(images)
    noise, conditioning = invert(
        sampler,
        latents,
        condition(sampler, list(prompts_before)),
        steps=settings.steps,
        guidance_scale=settings.guidance_scale,
    )
    offsets = conditioning.offsets
    assert offsets is not None
    problems = [
        Problem(prompt, seed, noise[row], offsets[:, row])
        for row, (prompt, seed) in enumerate(zip(prompts_after, seeds, strict=True))
    ]
    objective = TargetClass(classifier, targets) + settings.keep * PixelDistance(images)
    return optimise(sampler, problems, objective, settings, on_step)


@torch.no_grad()
def reconstruct(
    sampler: Sampler, images: Tensor, prompts: Sequence[str], settings: GuidanceSettings
) -> Tensor:
    """Images [B, 3, S, S] through inversion and back, to see what the sampler can't hold."""
    from whylens.diffusion.chain import run_chain

    start = condition(sampler, list(prompts))
    noise, conditioning = invert(
        sampler,
        sampler.encode(images),
        start,
        steps=settings.steps,
        guidance_scale=settings.guidance_scale,
    )
    (latents,) = run_chain(
        sampler,
        noise,
        replace(conditioning),
        steps=settings.steps,
        guidance_scale=settings.guidance_scale,
    )
    return sampler.decode(latents)
