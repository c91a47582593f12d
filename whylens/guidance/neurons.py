"""Neurons: what their exemplars show, and real images in which one rises or falls.

("DiG-IN", section 6: neuron visualisations and neuron counterfactuals.)
"""

import re
from collections.abc import Sequence, Sized
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from whylens.classifiers.heatmap import component_heatmap
from whylens.diffusion.inversion import Inversion
from whylens.diffusion.sampler import Sampler
from whylens.guidance.checking import as_many
from whylens.guidance.masks import squashed, with_margin
from whylens.guidance.memory import inverted
from whylens.guidance.objectives import FeatureObjective, Objective, PixelDistance
from whylens.guidance.problems import Paste, Problems
from whylens.guidance.settings import GuidanceSettings
from whylens.guidance.solutions import Solution, solve

# No class stands for what a neuron sees: of the exemplars that give words, a sixth may be of one.
MOST_OF_ONE_CLASS = 1 / 6


def neuron_counterfactual(
    sampler: Sampler,
    images: Tensor,
    prompts_before: Sequence[str],
    prompts_after: Sequence[str],
    objective: FeatureObjective,
    settings: GuidanceSettings,
    *,
    seeds: Sequence[int] | None = None,
    inversion: Inversion | None = None,
) -> list[Solution]:
    """Raise or lower a feature of images [B, 3, S, S] in [0, 1], and change little else.

    Parameters and errors are those of `neuron_problems`.
    """
    problems, whole = neuron_problems(
        sampler, images, prompts_before, prompts_after, objective, settings, seeds=seeds,
        inversion=inversion,
    )  # fmt: skip
    return solve(sampler, problems, whole, settings)


def neuron_problems(
    sampler: Sampler,
    images: Tensor,
    prompts_before: Sequence[str],
    prompts_after: Sequence[str],
    objective: FeatureObjective,
    settings: GuidanceSettings,
    *,
    seeds: Sequence[int] | None = None,
    inversion: Inversion | None = None,
) -> tuple[Problems, Objective]:
    """What is to be optimised, and for what, so that a feature of images rises or falls.

    The objective's signs say which; `settings.regularisers.pixels` weighs the squared distance to
    the images [B, 3, S, S] in [0, 1]. With `settings.editing.mask` "attention" an image changes
    only where a falling neuron looks (`looked_at`). `prompts_before` say what the images show,
    `prompts_after` what they should show: the same, or without what a falling neuron sees
    (`leave_out`). `inversion`, where it is there already, is of these images, prompts and settings.

    Raises
    ------
    ValueError
        If prompts, features or seeds are not as many as the images, or the mask is "given".
    """
    editing = settings.editing
    if editing.mask == "given":
        raise ValueError('neuron counterfactuals know no given masks: take "attention" or "none"')
    seeds = range(len(images)) if seeds is None else seeds
    parts: dict[str, Sized] = {
        "prompts_before": prompts_before,
        "prompts_after": prompts_after,
        "objective.features": objective.features,
        "seeds": seeds,
    }
    as_many(images, **parts)
    if inversion is None:
        inversion = inverted(sampler, images, prompts_before, settings)
    problems = Problems.from_inversion(sampler, inversion, prompts_after, seeds)
    held = settings.regularisers
    if editing.mask == "attention":
        masks = with_margin(looked_at(objective, images), editing.margin)
        problems = replace(problems, paste=Paste(images, masks))
    return problems, objective + held.pixels * PixelDistance(images, power=held.power)


def looked_at(objective: FeatureObjective, images: Tensor) -> Tensor:
    """Raw masks [B, 1, S, S] in [0, 1] of where falling neurons see what they respond to.

    The neuron's heat map (`whylens.classifiers.heatmap`), squashed between its 5th and
    95th percentile. A rising neuron has seen nothing yet: its image may change anywhere.
    """
    neurons = F.one_hot(objective.features, objective.classifier.feature_size)
    heat = component_heatmap(objective.classifier, images, neurons)
    ends = torch.tensor([0.05, 0.95]).to(heat)
    # Row by row: torch takes quantiles of at most 16 million numbers at once.
    rows = torch.stack([row.quantile(ends) for row in heat.flatten(1)])
    low, high = rows.T.reshape(2, -1, 1, 1)
    scaled = ((heat - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    falling = (objective.signs < 0).view(-1, 1, 1)
    return torch.where(falling, squashed(scaled), 1.0)[:, None].to(images)


def mixed_exemplars(
    activations: NDArray[np.floating], labels: NDArray[np.integer], count: int
) -> NDArray[np.int64]:
    """The rows that activate a neuron most, of any one class a sixth of `count` at most.

    activations [N], labels [N]; a label below 0 is of no class. Fewer than `count` where classes
    are too few. A neuron whose strongest images are all of one class that shows two things would
    else be given the words of both, and of nothing else that it responds to.
    """
    room = max(1, round(count * MOST_OF_ONE_CLASS))
    taken: dict[int, int] = {}
    rows = []
    for row in np.argsort(-activations, kind="stable"):
        label = int(labels[row])
        if label >= 0 and taken.get(label, 0) == room:
            continue
        taken[label] = taken.get(label, 0) + 1
        rows.append(int(row))
        if len(rows) == count:
            break
    return np.array(rows, dtype=np.int64)


def leave_out(caption: str, word: str) -> str:
    """The caption without a thing that it names, and without the preposition before it.

    "a fish on sea with a flag", "flag" -> "a fish on sea". A prompt that still named what a falling
    neuron sees would pull it back. The caption as it is, where the word is all of it or not in it.
    """
    thing = rf"\s*\b((on|with|in|at|by|near|and|of)\s+)?((an?|the)\s+)?\b{re.escape(word)}\b"
    left = re.sub(thing, "", caption, count=1, flags=re.IGNORECASE).strip()
    return left or caption
