"""Counterfactuals: the smallest realistic change that makes a classifier say the target.

The image is inverted, its prompt's class word is changed, and the chain is optimised towards the
target and towards the image ("DiG-IN", section 5: universal visual counterfactuals). Which words
keep the image's cross-attention for how long, and from when on the background's latents are the
image's own, is searched first, without gradients. With a mask the result is the image itself
outside of it, to the pixel: what an autoencoder or a chain changes there is no part of the answer.
"""

import itertools
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from whylens.diffusion.attention import Injection, align
from whylens.diffusion.chain import Blend, Conditioning, condition, run_chain, watch
from whylens.diffusion.inversion import Inversion, invert_images
from whylens.diffusion.sampler import Sampler
from whylens.guidance.masks import foreground, with_margin
from whylens.guidance.objectives import Objective, PixelDistance, TargetClass
from whylens.guidance.optimiser import Frame, OnStep, Problem, Solution, optimise
from whylens.guidance.segment import Segmenter
from whylens.guidance.settings import GuidanceSettings

logger = logging.getLogger(__name__)


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
    on_step: OnStep | None = None,
) -> list[Solution]:
    """Change images [B, 3, S, S] in [0, 1] until the classifier says `targets` [B].

    `prompts_before` say what the images show, `prompts_after` what they should show. `masks`
    [B, 1, S, S] are where they may change if `settings.mask` is "given". A solution's start image
    is the edit before any optimisation. `inversion`, where it is there already, is of these images,
    prompts and settings. A `segmenter` refines masks that come from attention.

    Raises
    ------
    ValueError
        If prompts, targets, masks or seeds are not as many as the images, or no masks are given
        where they are asked for.
    """
    seeds = range(len(images)) if seeds is None else seeds
    for name, given in (
        ("prompts_before", prompts_before),
        ("prompts_after", prompts_after),
        ("targets", targets),
        ("seeds", seeds),
        ("masks", masks),
    ):
        if given is not None and len(given) != len(images):
            raise ValueError(f"{name} has {len(given)} entries for {len(images)} images")
    if settings.mask == "given" and masks is None:
        raise ValueError('masks are needed where settings.mask is "given"')
    if inversion is None:
        inversion = invert_images(sampler, images, prompts_before, **settings.inverting)
    noise = inversion.noise
    objective = TargetClass(classifier, targets) + settings.keep * PixelDistance(images)
    edit = condition(sampler, list(prompts_after))
    frame = None
    if settings.mask != "none" or settings.thresholds:
        conditioning = inversion.onto(condition(sampler, list(prompts_before)))
        way, maps = watch(
            sampler,
            noise,
            conditioning,
            steps=settings.steps,
            guidance_scale=settings.guidance_scale,
            attention_steps=max(
                -(-settings.steps // 2),
                *(round(threshold * settings.steps) for threshold in settings.thresholds),
                0,
            ),
        )
        if settings.mask == "attention":
            masks = foreground(
                sampler, noise, way, conditioning, edit, maps, prompts_before, prompts_after
            )
            if segmenter is not None:
                masks = segmenter.refine(images, masks.to(images))
        if settings.mask != "none":
            assert masks is not None
            frame = Frame(images, with_margin(masks.to(images), settings.margin))
            inversion = _freed(
                inversion, _in_latents(frame.masks, noise), prompts_before, prompts_after
            )
        tokens = [
            align(before, after)
            for before, after in zip(
                sampler.tokens(prompts_before), sampler.tokens(prompts_after), strict=True
            )
        ]
        edit = scheduled(
            sampler, noise, inversion.onto(edit), tokens, way, maps, frame, objective, settings
        )
    problems = [
        _problem(Problem.starting(prompt, seed, inversion, row), edit, frame, row)
        for row, (prompt, seed) in enumerate(zip(prompts_after, seeds, strict=True))
    ]
    return optimise(sampler, problems, objective, settings, on_step)


@torch.no_grad()
def scheduled(
    sampler: Sampler,
    noise: Tensor,
    edit: Conditioning,
    tokens: Sequence[tuple[list[int], list[float]]],
    way: Tensor,
    maps: Sequence[dict[int, Tensor]],
    frame: Frame | None,
    objective: Objective,
    settings: GuidanceSettings,
) -> Conditioning:
    """The conditioning with the best injection and blend of each problem, by its plain loss.

    One chain without gradients for all problems with all candidates, or as many as fit in the
    device's memory; noise [B, c, h, w], `way` and `maps` are the image's own
    (`whylens.diffusion.chain.watch`), `tokens` are `align`'s. The first of equals is taken.
    """
    count, steps, device = len(noise), settings.steps, noise.device
    index = torch.tensor([row for row, _ in tokens], device=device)
    weights = torch.tensor([row for _, row in tokens], device=device, dtype=noise.dtype)
    inside = None if frame is None else _in_latents(frame.masks, noise)
    blends = settings.blends if frame is not None else [None]
    candidates = [
        (round(threshold * steps), steps if share is None else round(share * steps))
        for threshold, share in itertools.product(settings.thresholds or [0.0], blends)
    ]

    def steered(rows: Tensor, until: Tensor, start: Tensor) -> Conditioning:
        """The edit of `rows`, a problem as often as it is named, under a candidate each."""
        conditioning = edit.select(rows)
        if settings.thresholds:
            injection = Injection(maps, index, weights, until.new_zeros(count)).select(rows)
            conditioning = replace(conditioning, injection=replace(injection, until=until))
        if inside is not None:
            conditioning = replace(conditioning, blend=Blend(way[:, rows], inside[rows], start))
        return conditioning

    def losses(tried: Sequence[tuple[int, int]]) -> Tensor:
        """[C, B] of the candidates; half of them at a time where memory is too small."""
        rows = torch.arange(count, device=device).repeat(len(tried))
        until, start = torch.tensor(tried, device=device).repeat_interleave(count, 0).unbind(1)
        try:
            (latents,) = run_chain(
                sampler,
                noise[rows],
                steered(rows, until, start),
                steps=steps,
                guidance_scale=settings.guidance_scale,
            )
            images = sampler.decode(latents)
            if frame is not None:
                images = frame.select(rows).around(images)
            values, _ = objective.select(rows).value_and_gradient(images)
        except torch.OutOfMemoryError:
            if len(tried) == 1:
                raise
        else:
            return values.view(len(tried), count)
        half = len(tried) // 2
        logger.warning("out of memory with %d schedules at once; trying %d", len(tried), half)
        return torch.cat([losses(tried[:half]), losses(tried[half:])])

    best = candidates * count
    if len(candidates) > 1:
        found = losses(candidates).nan_to_num(nan=torch.inf).T.tolist()
        best = [candidates[row.index(min(row))] for row in found]
    until, start = torch.tensor(best, device=device).unbind(1)
    return steered(torch.arange(count, device=device), until, start)


def _freed(
    inversion: Inversion,
    inside: Tensor,
    prompts_before: Sequence[str],
    prompts_after: Sequence[str],
) -> Inversion:
    """The inversion without its corrections inside of masks [B, 1, h, w], for an edit.

    They make up for what guidance by the image's own prompt does. Under another prompt they leave a
    blend of both shapes (Ju et al. 2024 correct the image's own chain alone, too). Where both
    prompts are the same, they stay.
    """
    if inversion.offsets is None:
        return inversion
    other = [b != a for b, a in zip(prompts_before, prompts_after, strict=True)]
    freed = inside * torch.tensor(other, device=inside.device).view(-1, 1, 1, 1)
    return replace(inversion, offsets=inversion.offsets * (1 - freed))


def _in_latents(masks: Tensor, latents: Tensor) -> Tensor:
    """Masks [B, 1, S, S] at the size of latents: 1 wherever any of a place's pixels is inside."""
    return F.adaptive_max_pool2d(masks, latents.shape[-2:])


def _problem(start: Problem, edit: Conditioning, frame: Frame | None, row: int) -> Problem:
    one = torch.tensor([row], device=edit.text.device)
    return replace(
        start,
        injection=None if edit.injection is None else edit.injection.select(one),
        blend=None if edit.blend is None else edit.blend.select(one),
        frame=None if frame is None else frame.select(one),
    )
