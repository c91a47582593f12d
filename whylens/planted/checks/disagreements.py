"""`whylens planted check --disagreements`: does pulling classifiers apart show how they fail?

Three pairs whose faults are known: biased against balanced (planted features), robust against
balanced (coarse form against fine detail), zero-shot against balanced (whatever it gets wrong).
"""

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from whylens.classifiers import load_classifier
from whylens.classifiers.classifier import Classifier
from whylens.diffusion import load_sampler
from whylens.diffusion.chain import sample
from whylens.diffusion.sampler import Sampler
from whylens.guidance.objectives import Disagreement
from whylens.guidance.problems import Problems
from whylens.guidance.settings import (
    ChainSettings,
    GuidanceSettings,
    OptimiserSettings,
    ViewSettings,
)
from whylens.guidance.solutions import solve
from whylens.images.tensors import to_batch
from whylens.planted.checks.judges import judged, probabilities, save_pictures
from whylens.planted.checks.shape_bias import coarse, fine, shape_bias
from whylens.planted.checks.zero_shot_errors import confirm, pattern_of
from whylens.planted.drawing.data import draw_many
from whylens.planted.drawing.world import BACKGROUNDS, COMPANIONS, LINKS, OBJECTS, Link, Scene

logger = logging.getLogger(__name__)

SETTINGS = GuidanceSettings(
    chain=ChainSettings(steps=10),
    optimiser=OptimiserSettings(steps=15, stop_below=-0.97, learning_rate=0.02),
    views=ViewSettings(cutouts=3),
)
BATCH = 16
# Images a class, and plain images a prompt among which their starts are found.
LINK_IMAGES, LINK_SEEDS = 3, 3
SHAPE_IMAGES, SHAPE_SEEDS = 2, 6
ERROR_IMAGES, ERROR_CAPTIONS = 3, 160
DRAWN_SEED = 77_100
DRAWN = 600
SEARCH_SEED = 500


@dataclass(frozen=True)
class Plain:
    """A plain image: its prompt, its seed and how it looks, [3, S, S]."""

    prompt: str
    seed: int
    image: Tensor


@dataclass(frozen=True)
class Pulled:
    """Images [N, 3, S, S] made for classes [N], and the two classifiers' probabilities of them."""

    images: Tensor
    starts: Tensor
    classes: Tensor
    p_a: Tensor
    p_b: Tensor


def check_disagreements(work: Path) -> dict[str, Any]:
    """Pull three pairs of planted classifiers apart; one flat record, pictures in `work`.

    difference: mean p of biased minus p of balanced over the planted classes' images;
    feature_without_object: share of planted classes most of whose images show the planted feature
    and not the class's object, as judges see it. shape_bias: see the module `shape_bias`, of
    robust on drawn hybrids, and balanced beside it. Of the images that robust calls the class and
    balanced does not: shape_kept, how often robust still says it of the coarse part alone;
    detail_kept, how often balanced still says it of the fine part alone; a judge's view of both, of
    the whole (shape_object_judged), and the same of the plain images (*_plain). zero_shot_errors:
    how many patterns of the CLIP-like model's errors, guessed from generated images, drawn images
    confirm.
    """
    sampler = load_sampler("planted")
    biased, balanced, robust, clip = (
        load_classifier(f"planted:{name}") for name in ("biased", "balanced", "robust", "clip")
    )
    record = check_links(sampler, biased, balanced, work)
    record |= check_shape(sampler, robust, balanced, work)
    record |= check_zero_shot(sampler, clip, balanced, work)
    return record


def check_links(
    sampler: Sampler, biased: Classifier, balanced: Classifier, work: Path
) -> dict[str, Any]:
    """Biased against balanced on every planted class."""
    starts, classes = [], []
    for link in LINKS:
        k = OBJECTS.index(link.object)
        tried = plain_images(sampler, prompts_showing(link), range(LINK_SEEDS))
        starts += best_starts(tried, biased, balanced, k, LINK_IMAGES)
        classes += [k] * LINK_IMAGES
    pulled = pull(sampler, biased, balanced, starts, classes)
    save_pictures(_pairs(pulled), work / "links.png", 2 * LINK_IMAGES)
    seen = judged(pulled.images)
    by_link: list[dict[str, Any]] = []
    for place, link in enumerate(LINKS):
        rows = slice(place * LINK_IMAGES, (place + 1) * LINK_IMAGES)
        k = OBJECTS.index(link.object)
        alone = seen.shows(link)[rows] & (seen.objects[rows] != k)
        by_link.append(
            {
                "class": link.object,
                "feature": link.feature,
                "prompts": sorted({start.prompt for start in starts[rows]}),
                "p_biased": _mean(pulled.p_a[rows]),
                "p_balanced": _mean(pulled.p_b[rows]),
                "feature_without_object": round(float(alone.mean()), 4),
            }
        )
        logger.info("link: %s", by_link[-1])
    return {
        "difference": _mean(pulled.p_a - pulled.p_b),
        "feature_without_object": round(
            float(np.mean([row["feature_without_object"] > 0.5 for row in by_link])), 4
        ),
        "feature_without_object_images": round(
            float(np.mean([row["feature_without_object"] for row in by_link])), 4
        ),
        "by_link": by_link,
    }


def check_shape(
    sampler: Sampler, robust: Classifier, balanced: Classifier, work: Path
) -> dict[str, Any]:
    """Robust against balanced: shape bias on drawn hybrids, and what the pulled images keep."""
    drawn = draw_many("clear", DRAWN, DRAWN_SEED)
    images, labels = to_batch(drawn.images, slice(None)), torch.from_numpy(drawn.objects)
    judge = load_classifier("planted:judge_object")
    bias = {
        name: shape_bias(classifier, images, labels, DRAWN_SEED)
        for name, classifier in (("robust", robust), ("balanced", balanced))
    }
    starts, classes = [], []
    for k, name in enumerate(OBJECTS):
        prompts = [f"a photo of a {name} on {background}" for background in BACKGROUNDS]
        tried = plain_images(sampler, prompts, range(SHAPE_SEEDS // 2))
        starts += best_starts(tried, robust, balanced, k, SHAPE_IMAGES)
        classes += [k] * SHAPE_IMAGES
    pulled = pull(sampler, robust, balanced, starts, classes)
    save_pictures(_pairs(pulled), work / "shape.png", 2 * SHAPE_IMAGES)
    return {
        "shape_bias": bias["robust"].shape_bias,
        "shape_bias_balanced": bias["balanced"].shape_bias,
        "shape_difference": _mean(pulled.p_a - pulled.p_b),
        "shape_object_judged": _found(judge, pulled.images, pulled.classes),
        "shape_kept": _found(robust, coarse(pulled.images), pulled.classes),
        "shape_kept_plain": _found(robust, coarse(pulled.starts), pulled.classes),
        "shape_kept_judged": _found(judge, coarse(pulled.images), pulled.classes),
        "shape_kept_judged_plain": _found(judge, coarse(pulled.starts), pulled.classes),
        "detail_kept": _found(balanced, fine(pulled.images), pulled.classes),
        "detail_kept_plain": _found(balanced, fine(pulled.starts), pulled.classes),
        "detail_kept_judged": _found(judge, fine(pulled.images), pulled.classes),
        "detail_kept_judged_plain": _found(judge, fine(pulled.starts), pulled.classes),
    }


def check_zero_shot(
    sampler: Sampler, clip: Classifier, balanced: Classifier, work: Path
) -> dict[str, Any]:
    """The CLIP-like model against balanced: guess patterns of errors, confirm them on drawings."""
    scenes = [
        Scene(name, background, companion, ())
        for name, background, companion in itertools.product(
            OBJECTS, BACKGROUNDS, (*COMPANIONS, None)
        )
    ]
    chosen = np.random.default_rng(SEARCH_SEED).permutation(len(scenes))[:ERROR_CAPTIONS]
    captions = [scenes[place].caption for place in chosen]
    tried = plain_images(sampler, captions, [SEARCH_SEED])
    starts, classes = [], []
    for k, name in enumerate(OBJECTS):
        others = [t for t, place in zip(tried, chosen, strict=True) if scenes[place].object != name]
        starts += best_starts(others, clip, balanced, k, ERROR_IMAGES)
        classes += [k] * ERROR_IMAGES
    pulled = pull(sampler, clip, balanced, starts, classes)
    save_pictures(_pairs(pulled), work / "zero_shot.png", 2 * ERROR_IMAGES)
    patterns = []
    for k in range(len(OBJECTS)):
        rows = (pulled.classes == k) & (pulled.p_a > 0.5) & (pulled.p_b < 0.5)
        found = pattern_of(k, judged(pulled.images[rows])) if rows.any() else None
        if found is not None:
            patterns.append(found)
    tested = confirm(patterns, clip, balanced)
    for one in tested:
        logger.info("zero-shot: %s", one)
    return {
        "zero_shot_difference": _mean(pulled.p_a - pulled.p_b),
        "zero_shot_errors": sum(one.confirmed for one in tested),
        "zero_shot_patterns": [one.record() for one in tested],
    }


def prompts_showing(link: Link) -> list[str]:
    """Captions of scenes with a link's feature and nothing else that is planted."""
    free = [b for b in BACKGROUNDS if b not in {one.feature for one in LINKS}]
    if link.kind == "companion":
        return [Scene(None, b, link.feature, ()).caption for b in free]
    return [Scene(None, link.feature, companion, ()).caption for companion in (None, "lamp")] + [
        Scene(name, link.feature, None, ()).caption for name in ("cross", "moon")
    ]


def plain_images(sampler: Sampler, prompts: Sequence[str], seeds: Sequence[int]) -> list[Plain]:
    """A plain image of each prompt with each seed."""
    pairs = list(itertools.product(prompts, seeds))
    made = []
    for start in range(0, len(pairs), 2 * BATCH):
        some = pairs[start : start + 2 * BATCH]
        images = sample(
            sampler,
            [prompt for prompt, _ in some],
            [seed for _, seed in some],
            steps=SETTINGS.chain.steps,
            guidance_scale=SETTINGS.chain.guidance_scale,
        )
        made += [Plain(*pair, image) for pair, image in zip(some, images, strict=True)]
    return made


def best_starts(
    tried: Sequence[Plain], a: Classifier, b: Classifier, k: int, count: int
) -> list[Plain]:
    """The plain images on which a says class k more than b does, the most first."""
    images = torch.stack([one.image for one in tried])
    gap = probabilities(a, images)[:, k] - probabilities(b, images)[:, k]
    return [tried[int(row)] for row in gap.argsort(descending=True, stable=True)[:count]]


def pull(
    sampler: Sampler, a: Classifier, b: Classifier, starts: Sequence[Plain], classes: Sequence[int]
) -> Pulled:
    """Optimise each start towards -p_a + p_b of its class."""
    targets = torch.tensor(classes)
    images: list[Tensor] = []
    for first in range(0, len(starts), BATCH):
        some, k = starts[first : first + BATCH], targets[first : first + BATCH]
        prompts, seeds = [one.prompt for one in some], [one.seed for one in some]
        problems = Problems.from_prompts(sampler, prompts, seeds)
        solutions = solve(sampler, problems, Disagreement(a, b, k, k), SETTINGS)
        images += [
            one.image if solution.image is None else solution.image
            for one, solution in zip(some, solutions, strict=True)
        ]
        logger.info("pulled %d of %d images apart", len(images), len(starts))
    made = torch.stack(images)
    column = targets[:, None]
    p_a, p_b = (probabilities(one, made).gather(1, column)[:, 0] for one in (a, b))
    return Pulled(made, torch.stack([one.image for one in starts]), targets, p_a, p_b)


def _pairs(pulled: Pulled) -> Tensor:
    """Each start and what became of it, side by side."""
    return torch.stack([pulled.starts, pulled.images], 1).flatten(0, 1)


def _found(classifier: Classifier, images: Tensor, classes: Tensor) -> float:
    """How often the classifier calls the images their class."""
    return _mean((probabilities(classifier, images).argmax(1) == classes).float())


def _mean(values: Tensor) -> float:
    return round(float(values.mean()), 4)
