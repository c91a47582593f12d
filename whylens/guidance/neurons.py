"""Neurons: what their exemplars show, and real images in which one rises or falls.

("DiG-IN", section 6: neuron visualisations and neuron counterfactuals.)
"""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from whylens.diffusion.inversion import Inversion, invert_images
from whylens.diffusion.sampler import Sampler
from whylens.guidance.objectives import FeatureObjective, PixelDistance
from whylens.guidance.optimiser import OnStep, Problem, Solution, optimise
from whylens.guidance.settings import GuidanceSettings

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
    on_step: OnStep | None = None,
) -> list[Solution]:
    """Raise or lower a feature of images [B, 3, S, S] in [0, 1], and change little else.

    The objective's signs say which; `settings.keep` weighs the squared distance to the image.
    `prompts_before` say what the images show, `prompts_after` what they should show: the same, or
    without what a falling neuron sees (`leave_out`). `inversion`, where it is there already, is of
    these images, prompts and settings.

    Raises
    ------
    ValueError
        If prompts, features or seeds are not as many as the images.
    """
    seeds = range(len(images)) if seeds is None else seeds
    for name, given in (
        ("prompts_before", prompts_before),
        ("prompts_after", prompts_after),
        ("objective.features", objective.features),
        ("seeds", seeds),
    ):
        if len(given) != len(images):
            raise ValueError(f"{name} has {len(given)} entries for {len(images)} images")
    if inversion is None:
        inversion = invert_images(sampler, images, prompts_before, **settings.inverting)
    problems = [
        Problem.starting(prompt, seed, inversion, row)
        for row, (prompt, seed) in enumerate(zip(prompts_after, seeds, strict=True))
    ]
    return optimise(
        sampler, problems, objective + settings.keep * PixelDistance(images), settings, on_step
    )


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
