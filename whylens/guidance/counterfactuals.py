"""Counterfactuals: the smallest realistic change that makes a classifier say the target.

The image is inverted, its prompt's class word is changed, and the chain is optimised towards the
target and towards the image ("DiG-IN", section 5: universal visual counterfactuals). Which words
keep the image's cross-attention for how long, and from when on the background's latents are the
image's own, is searched first, without gradients. With a mask the result is the image itself
outside of it, to the pixel: what an autoencoder or a chain changes there is no part of the answer.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from whylens.diffusion.attention import AttentionMaps, Injection, align, no_words
from whylens.diffusion.chain import watch
from whylens.diffusion.conditioning import Blend, condition
from whylens.diffusion.inversion import NOISE_SEED, Inversion
from whylens.diffusion.sampler import Sampler
from whylens.diffusion.schedules import fresh_noise
from whylens.guidance.checking import as_many
from whylens.guidance.edit_schedules import with_best_schedules
from whylens.guidance.masks import foreground, with_margin
from whylens.guidance.memory import inverted
from whylens.guidance.objectives import Objective, PixelDistance, TargetClass
from whylens.guidance.problems import Paste, Problems
from whylens.guidance.segment import Segmenter
from whylens.guidance.settings import GuidanceSettings
from whylens.guidance.solutions import Solution, solve


def counterfactual(
    sampler: Sampler,
    images: Tensor,
    prompts_before: Sequence[str],
    prompts_after: Sequence[str],
    targets: Tensor,
    classifier: Any,
    settings: GuidanceSettings,
    *,
    masks: Tensor | None = None,
    seeds: Sequence[int] | None = None,
    inversion: Inversion | None = None,
    segmenter: Segmenter | None = None,
) -> list[Solution]:
    """Change images [B, 3, S, S] in [0, 1] until the classifier says `targets` [B].

    A solution's start image is the edit before any optimisation. Parameters and errors are those of
    `counterfactual_problems`.
    """
    problems, objective = counterfactual_problems(
        sampler, images, prompts_before, prompts_after, targets, classifier, settings, masks=masks,
        seeds=seeds, inversion=inversion, segmenter=segmenter,
    )  # fmt: skip
    return solve(sampler, problems, objective, settings)


def counterfactual_problems(
    sampler: Sampler,
    images: Tensor,
    prompts_before: Sequence[str],
    prompts_after: Sequence[str],
    targets: Tensor,
    classifier: Any,
    settings: GuidanceSettings,
    *,
    masks: Tensor | None = None,
    seeds: Sequence[int] | None = None,
    inversion: Inversion | None = None,
    segmenter: Segmenter | None = None,
) -> tuple[Problems, Objective]:
    """What is to be optimised, and for what, so that images are changed to `targets` [B].

    `prompts_before` say what the images [B, 3, S, S] in [0, 1] show, `prompts_after` what they
    should show. `masks` [B, 1, S, S] are where they may change if `settings.editing.mask` is
    "given". `inversion`, where it is there already, is of these images, prompts and settings. A
    `segmenter` refines masks that come from attention.

    Raises
    ------
    ValueError
        If prompts, targets, masks or seeds are not as many as the images, or no masks are given
        where they are asked for.
    UsageError
        If words are to be looked for in a sampler that has no cross-attention.
    """
    seeds = range(len(images)) if seeds is None else seeds
    as_many(
        images,
        prompts_before=prompts_before,
        prompts_after=prompts_after,
        targets=targets,
        seeds=seeds,
        masks=masks,
    )
    editing, steps = settings.editing, settings.chain.steps
    if sampler.flow and editing.asks_words:
        raise no_words(sampler.name)
    if editing.mask == "given" and masks is None:
        raise ValueError('masks are needed where settings.editing.mask is "given"')
    if inversion is None:
        inversion = inverted(sampler, images, prompts_before, settings)
    said, held = TargetClass(classifier, targets), settings.regularisers
    objective = said + held.pixels * PixelDistance(images, power=held.power)
    problems = Problems.from_inversion(sampler, inversion, prompts_after, seeds)
    if editing.mask == "none" and not editing.thresholds:
        return problems, objective
    own = inversion.onto(condition(sampler, list(prompts_before)))
    attention = AttentionMaps(
        injected_steps=max((round(share * steps) for share in editing.thresholds), default=0),
        word_steps=math.ceil(steps / 2) if editing.mask == "attention" else 0,
    )
    trajectory = watch(
        sampler, inversion.noise, own, attention, steps=steps,
        guidance_scale=settings.chain.guidance_scale,
    )  # fmt: skip
    if editing.mask == "attention":
        masks = foreground(
            sampler, trajectory, own, problems.conditioning, attention, prompts_before,
            prompts_after,
        )  # fmt: skip
        if segmenter is not None:
            masks = segmenter.refine(images, masks.to(images))
    if editing.mask != "none":
        assert masks is not None
        paste = Paste(images, with_margin(masks.to(images), editing.margin))
        # What a consistency model's chain needs in the place of corrections: noise.
        fresh = fresh_noise(sampler, [NOISE_SEED] * len(problems), steps)
        problems = _confined(problems, paste, trajectory, prompts_before, prompts_after, fresh)
        if editing.outside == "held":
            outside = 1 - paste.masks
            background = F.adaptive_avg_pool2d(outside, problems.latents.shape[-1])
            problems = replace(problems, paste=None, background=background)
            objective = said + held.pixels * PixelDistance(images, outside, held.power)
    if editing.thresholds:
        problems = _aligned(
            sampler, problems, attention, prompts_before, prompts_after, editing.swapped
        )
    return with_best_schedules(sampler, problems, objective, settings), objective


def _confined(
    problems: Problems,
    paste: Paste,
    trajectory: Tensor,
    prompts_before: Sequence[str],
    prompts_after: Sequence[str],
    fresh: Tensor | None,
) -> Problems:
    """The problems, free inside of the paste's masks and the image's own outside of them.

    Corrections of an inversion make up for what guidance by the image's own prompt does. Under
    another prompt they leave a blend of both shapes (Ju et al. 2024 correct the image's own chain
    alone, too), so they go inside of the masks. Where both prompts are the same, they stay.
    `fresh` [B, T, c, h, w], the noise that the chain takes on of itself, is there in their place.
    """
    # At the size of latents: 1 wherever any of a place's pixels is inside.
    inside = F.adaptive_max_pool2d(paste.masks, problems.latents.shape[-2:])
    never = torch.full((len(problems),), trajectory.shape[1] - 1, device=inside.device)
    conditioning = replace(problems.conditioning, blend=Blend(trajectory, inside, never, never))
    if conditioning.offsets is not None:
        other = [b != a for b, a in zip(prompts_before, prompts_after, strict=True)]
        freed = (inside * torch.tensor(other, device=inside.device).view(-1, 1, 1, 1))[:, None]
        offsets = conditioning.offsets * (1 - freed)
        if fresh is not None:
            offsets = offsets + fresh * freed
        conditioning = replace(conditioning, offsets=offsets)
    return replace(problems, conditioning=conditioning, paste=paste)


def _aligned(
    sampler: Sampler,
    problems: Problems,
    attention: AttentionMaps,
    prompts_before: Sequence[str],
    prompts_after: Sequence[str],
    swapped: Literal["own", "source"],
) -> Problems:
    """The problems, ready to take over their image's cross-attention."""
    pairs = [
        align(before, after, swapped)
        for before, after in zip(
            sampler.tokens(prompts_before), sampler.tokens(prompts_after), strict=True
        )
    ]
    latents = problems.latents
    rows = torch.arange(len(problems), device=latents.device)
    injection = Injection(
        attention,
        rows,
        torch.tensor([tokens for tokens, _ in pairs], device=latents.device),
        torch.tensor([weights for _, weights in pairs], device=latents.device, dtype=latents.dtype),
        until=torch.zeros_like(rows),
    )
    return replace(problems, conditioning=replace(problems.conditioning, injection=injection))
