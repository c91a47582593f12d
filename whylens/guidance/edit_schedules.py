"""When an edit is led by its image: the best schedule of cross-attention and blending, by search.

Prompt-to-prompt's choices (Hertz et al. 2022) are tried without gradients ("DiG-IN", section 5),
then fixed.
"""

import itertools
import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from whylens.diffusion.chain import denoise, result
from whylens.diffusion.sampler import Sampler
from whylens.guidance.objectives import Objective
from whylens.guidance.problems import Problems
from whylens.guidance.settings import GuidanceSettings

logger = logging.getLogger(__name__)


@torch.no_grad()
def with_best_schedules(
    sampler: Sampler, problems: Problems, objective: Objective, settings: GuidanceSettings
) -> Problems:
    """The problems with the best injection and blend of each, by the plain loss.

    One chain without gradients for all problems with all candidates, or as many as fit in the
    device's memory. The first of equals is taken.
    """
    count, device = len(problems), problems.latents.device
    candidates = _candidates(problems, settings)
    best = [candidates[0]] * count
    if len(candidates) > 1:
        losses = _losses(sampler, problems, objective, settings, candidates)
        found = losses.nan_to_num(nan=torch.inf).T.tolist()
        best = [candidates[row.index(min(row))] for row in found]
    return _scheduled(problems, *torch.tensor(best, device=device).unbind(1))


class Schedule(NamedTuple):
    """Steps with the image's cross-attention; latents are blended after steps start to end - 1."""

    until: int
    start: int
    end: int


def _candidates(problems: Problems, settings: GuidanceSettings) -> list[Schedule]:
    steps, editing = settings.chain.steps, settings.editing
    blends = editing.blends if problems.conditioning.blend is not None else [None]
    return [
        Schedule(round(threshold * steps), *_blended(share, steps, editing.blended))
        for threshold, share in itertools.product(editing.thresholds or [0.0], blends)
    ]


def _blended(share: float | None, steps: int, side: Literal["after", "before"]) -> tuple[int, int]:
    """`Blend`'s start and end, where `share` of the chain divides it; None: never."""
    if share is None:
        return steps, steps
    if side == "after":
        return round(share * steps), steps
    # The steps i with i / T < share begin at blended latents.
    return -1, math.ceil(share * steps - 1e-9) - 1


def _scheduled(problems: Problems, until: Tensor, start: Tensor, end: Tensor) -> Problems:
    """The problems under a schedule each, [B] all."""
    conditioning = problems.conditioning
    if conditioning.injection is not None:
        injection = replace(conditioning.injection, until=until)
        conditioning = replace(conditioning, injection=injection)
    if conditioning.blend is not None:
        conditioning = replace(
            conditioning, blend=replace(conditioning.blend, start=start, end=end)
        )
    return replace(problems, conditioning=conditioning)


def _losses(
    sampler: Sampler,
    problems: Problems,
    objective: Objective,
    settings: GuidanceSettings,
    candidates: Sequence[Schedule],
) -> Tensor:
    """[C, B] of the candidates; half of them at a time where memory is too small."""
    count, device = len(problems), problems.latents.device
    rows = torch.arange(count, device=device).repeat(len(candidates))
    schedules = torch.tensor(candidates, device=device).repeat_interleave(count, 0)
    tried = _scheduled(problems.select(rows), *schedules.unbind(1))
    try:
        states = denoise(
            sampler, tried.latents, tried.conditioning, steps=settings.chain.steps,
            guidance_scale=settings.chain.guidance_scale,
        )  # fmt: skip
        images = tried.shown(sampler.decode(result(states)))
        values, _ = objective.select(rows).value_and_gradient(images)
    except torch.OutOfMemoryError:
        if len(candidates) == 1:
            raise
    else:
        return values.view(len(candidates), count)
    half = len(candidates) // 2
    logger.warning("out of memory with %d schedules at once; trying %d", len(candidates), half)
    parts = (candidates[:half], candidates[half:])
    return torch.cat([_losses(sampler, problems, objective, settings, part) for part in parts])
