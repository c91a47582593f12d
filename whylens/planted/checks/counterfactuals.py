"""`whylens planted check --counterfactuals`: do counterfactuals show the target, and nothing else?

Drawings of the planted world are changed to a random class by each method, within one budget, for a
classifier without and one with planted links. What the results show, judges say.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from whylens.classifiers import load_classifier
from whylens.classifiers.classifier import Classifier
from whylens.diffusion import load_sampler
from whylens.diffusion.sampler import Sampler
from whylens.guidance.baselines import (
    DvceSettings,
    LdceSettings,
    SvceSettings,
    diffusion_counterfactual,
    latent_counterfactual,
    pixel_counterfactual,
)
from whylens.guidance.counterfactuals import counterfactual
from whylens.guidance.measures import change_by_place, features_of, frechet, grown, l1
from whylens.guidance.settings import (
    ChainSettings,
    EditingSettings,
    GuidanceSettings,
    OptimiserSettings,
    RegulariserSettings,
    ViewSettings,
)
from whylens.guidance.solutions import Latest, Solution, followed
from whylens.guidance.state import State
from whylens.images.tensors import to_batch
from whylens.planted.checks.judges import Seen, judged, probabilities, save_pictures
from whylens.planted.drawing.data import caption, draw_many
from whylens.planted.drawing.world import LINKS, OBJECTS, Split, draw, sample_scene

logger = logging.getLogger(__name__)

SPLIT: Split = "clear"
SEED, REFERENCE_SEED, TARGET_SEED = 79_001, 79_002, 79_003
IMAGES, REFERENCE = 200, 1000
BATCH = 8
# Pixels around the drawn object that another shape may need: changes there are not outside.
MARGIN = 6
SHOWN = 8

# The budget: what a method may ask of the U-Net an image. A pass is one latent forward or backward.
BUDGET = 530
# Each within it, the baselines tuned for what the judge sees of the target, in their favour: on the
# first eight of the drawings that are then measured (one of eight is 0.125).
SETTINGS: dict[str, Any] = {
    # Inversion 30, masks and schedules 150, then up to 9 images and 8 gradients of 20 passes each.
    # Tuned on other drawings (seed 91,001).
    "uvce": GuidanceSettings(
        chain=ChainSettings(steps=10, segment=10),
        optimiser=OptimiserSettings(steps=8, stop_below=0.3, learning_rate=0.04),
        views=ViewSettings(cutouts=3),
    ),
    # The cheapest flip: any of it may change, nobody tells the sampler the target's word, and
    # little holds it to the image. What it shows is what the classifier asks for.
    "unworded": GuidanceSettings(
        chain=ChainSettings(steps=10, segment=10),
        optimiser=OptimiserSettings(steps=12, learning_rate=0.07),
        views=ViewSettings(cutouts=3),
        regularisers=RegulariserSettings(pixels=0.3),
        editing=EditingSettings(mask="none", thresholds=[]),
    ),
    # No U-Net; four times as many looks at the classifier as UVCE. Radius 0.04: judged 0.13, 0.1:
    # judged 0.75, 2.5 times the change outside.
    "svce": SvceSettings(optimisation_steps=200, radius=0.06),
    # 4 passes a step: one forward, three gradients. The paper's start of 0.5 with a weight of 0.6:
    # judged 0.63; a start of 0.65 with 0.6 or 1: judged 1.0, more change with 1.
    "dvce": DvceSettings(steps=190, start=0.65, class_weight=0.6),
    # 4 passes a step: with and without prompt, two gradients. Start 0.6 and the paper's weight of
    # 2.3: judged 0.5.
    "ldce": LdceSettings(steps=170, start=0.75, class_weight=4.0),
}
# Methods are compared where nothing was planted; where it was, the question is what flips.
METHODS = {
    "balanced": ("uvce", "svce", "dvce", "ldce", "unworded"),
    "biased": ("uvce", "svce", "unworded"),
}


@dataclass(frozen=True)
class Task:
    """Images to change [N, 3, S, S] in [0, 1], with their prompts before and after, their targets
    [N], and where their objects are, [N, S, S]."""

    images: Tensor
    before: list[str]
    after: list[str]
    targets: Tensor
    masks: Tensor


@dataclass(frozen=True)
class Made:
    """A method's images [N, S, S, 3] as stored, whether it failed [N], and what they cost [N].

    passes are the U-Net's, looks the explained classifier's (images that it saw), an image each.
    """

    images: NDArray[np.uint8]
    failed: NDArray[np.bool_]
    passes: NDArray[np.float64]
    looks: NDArray[np.float64]
    seconds: NDArray[np.float64]


def check_counterfactuals(work: Path, count: int = IMAGES) -> dict[str, Any]:
    """Change `count` drawings by each method; per classifier and method a record, sheets in `work`.

    flip: the explained classifier says the target; judged_target: a judge of the object does;
    background_kept, companion_kept: judges say the same as before; outside_change: mean absolute
    change of pixels further than 6 px from the object; frechet: distance to other drawings in
    features of the judge of objects (it grows as `count` falls); l1 of all pixels. passes, looks,
    seconds: what an image cost. feature_instead_of_object: for each link, how often an image
    without the feature that is led to the link's class gets the feature and not the object, as
    judges see it (feature_shown: gets the feature at all).

    Batches that `work` holds are not made again.
    """
    sampler = load_sampler("planted")
    robust = load_classifier("planted:robust")
    reference = to_batch(draw_many(SPLIT, REFERENCE, REFERENCE_SEED).images, slice(None))
    record: dict[str, Any] = {"images": count, "budget": BUDGET}
    for name, methods in METHODS.items():
        classifier = load_classifier(f"planted:{name}")
        task = chosen(classifier, count)
        sheet = [task.images[:SHOWN]]
        record[name] = {}
        for method in methods:
            made = make(sampler, classifier, robust, method, task, work / "parts", name)
            after = to_batch(made.images, slice(None))
            sheet.append(after[:SHOWN])
            found = measured(classifier, task, made, after, reference)
            save_pictures(_pairs(task.images, after), work / f"{name}-{method}.png", 8)
            record[name][method] = found
            told = {key: value for key, value in found.items() if not isinstance(value, list)}
            logger.info("%s, %s: %s", name, method, told)
        save_pictures(torch.cat(sheet), work / f"{name}.png", len(sheet[0]))
    return record


def chosen(classifier: Classifier, count: int) -> Task:
    """The first drawings of the split that the classifier names rightly, with random targets."""
    drawn = draw_many(SPLIT, 2 * count, SEED)
    images = to_batch(drawn.images, slice(None))
    right = (probabilities(classifier, images).argmax(1).numpy() == drawn.objects).nonzero()[0]
    rows = right[:count]
    # A target belongs to a drawing, so that all classifiers and counts agree.
    ahead = np.random.default_rng(TARGET_SEED).integers(1, len(OBJECTS), 2 * count)
    targets = (drawn.objects + ahead) % len(OBJECTS)
    masks = [draw(sample_scene(SPLIT, SEED, int(row))).masks["object"] for row in rows]
    return Task(
        images[torch.from_numpy(rows)],
        [drawn.captions[row] for row in rows],
        [
            caption(int(targets[row]), int(drawn.backgrounds[row]), int(drawn.companions[row]))
            for row in rows
        ],
        torch.from_numpy(targets[rows]),
        torch.from_numpy(np.stack(masks)),
    )


def make(
    sampler: Sampler,
    classifier: Classifier,
    robust: Classifier,
    method: str,
    task: Task,
    folder: Path,
    name: str,
) -> Made:
    """The method's images, batch by batch; each batch is kept in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    # Without defaults: a setting that comes new, and is not used here, changes no result.
    own = SETTINGS[method].model_dump(exclude_defaults=True)
    told = json.dumps([own, BATCH, SEED, TARGET_SEED])
    digest = hashlib.sha256(told.encode()).hexdigest()[:8]
    parts = []
    starts = range(0, len(task.images), BATCH)
    for start in tqdm(starts, desc=f"{name}, {method}", unit="batch"):
        rows = slice(start, min(start + BATCH, len(task.images)))
        path = folder / f"{name}-{method}-{digest}-{start:04d}-{rows.stop:04d}.npz"
        if not path.exists():
            aside = path.with_suffix(".tmp")
            part = change(sampler, classifier, robust, method, task, rows)
            with aside.open("wb") as file:
                np.savez(file, **{f.name: getattr(part, f.name) for f in fields(Made)})
            aside.replace(path)
        with np.load(path, allow_pickle=False) as kept:
            parts.append(Made(**{f.name: kept[f.name] for f in fields(Made)}))
    return Made(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Made)))


def change(
    sampler: Sampler,
    classifier: Classifier,
    robust: Classifier,
    method: str,
    task: Task,
    rows: slice,
) -> Made:
    """One batch by one method, with what it cost."""
    images = task.images[rows]
    after = task.before if method == "unworded" else task.after
    arguments = (
        sampler, images, task.before[rows], after[rows], task.targets[rows], classifier,
        SETTINGS[method],
    )  # fmt: skip
    options: dict[str, Any] = {"seeds": range(*rows.indices(len(task.images)))}
    if method in ("svce", "dvce"):
        options["robust"] = robust
    began = time.perf_counter()
    with counted(sampler.denoiser) as passes, counted(_first(classifier)) as looks:
        solutions = _method(method)(*arguments, **options)
    seconds = time.perf_counter() - began
    made = torch.stack(
        [
            image if solution.image is None else solution.image
            for image, solution in zip(images, solutions, strict=True)
        ]
    )
    count = len(images)
    return Made(
        (made * 255).round().byte().permute(0, 2, 3, 1).numpy(),
        np.array([solution.failed is not None for solution in solutions]),
        np.full(count, (passes.forward + passes.backward) / count),
        np.full(count, looks.forward / count),
        np.full(count, seconds / count),
    )


def _method(method: str) -> Callable[..., list[Solution]]:
    methods: dict[str, Callable[..., list[Solution]]] = {
        "uvce": counterfactual,
        "unworded": counterfactual,
        "svce": partial(_solved, pixel_counterfactual),
        "dvce": partial(_solved, diffusion_counterfactual),
        "ldce": partial(_solved, latent_counterfactual),
    }
    return methods[method]


def _solved(
    method: Callable[..., Iterator[State]],
    sampler: Sampler,
    images: Tensor,
    *arguments: Any,
    **options: Any,
) -> list[Solution]:
    states = method(sampler, images, *arguments, **options)
    return followed(Latest(len(images)), states)


@dataclass
class Passes:
    """Rows that went through a module forward, and gradients that came back."""

    forward: int = 0
    backward: int = 0


@contextmanager
def counted(module: nn.Module) -> Iterator[Passes]:
    """Count what goes through a module; what is computed again for backward counts again."""
    passes = Passes()

    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        out: Any = getattr(output, "sample", output)
        passes.forward += len(out)
        if out.requires_grad:
            out.register_hook(back)

    def back(gradient: Tensor) -> None:
        passes.backward += len(gradient)

    handle = module.register_forward_hook(hook)
    try:
        yield passes
    finally:
        handle.remove()


def _first(classifier: Classifier) -> nn.Module:
    """The layer through which every image goes that the classifier looks at."""
    return next(module for module in classifier.modules() if isinstance(module, nn.Conv2d))


def measured(
    classifier: Classifier, task: Task, made: Made, after: Tensor, reference: Tensor
) -> dict[str, Any]:
    """The record of one method's images, measured as they are stored."""
    judge = load_classifier("planted:judge_object")
    targets = task.targets.numpy()
    said = probabilities(classifier, after)
    was, seen = judged(task.images), judged(after)
    _, outside = change_by_place(task.images, after, grown(task.masks, MARGIN))
    return {
        "flip": _mean(said.argmax(1).numpy() == targets),
        "target_probability": _mean(said.gather(1, task.targets[:, None]).numpy()),
        "judged_target": _mean(seen.objects == targets),
        "background_kept": _mean(seen.backgrounds == was.backgrounds),
        "companion_kept": _mean(seen.companions == was.companions),
        "outside_change": _mean(outside.numpy()),
        "l1": _mean(l1(task.images, after).numpy()),
        "frechet": round(frechet(features_of(judge, after), features_of(judge, reference)), 4),
        "failed": int(made.failed.sum()),
        "passes": round(float(made.passes.mean()), 1),
        "looks": round(float(made.looks.mean()), 1),
        "seconds": round(float(made.seconds.mean()), 2),
        "feature_instead_of_object": by_link(was, seen, targets),
    }


def by_link(was: Seen, seen: Seen, targets: NDArray[np.int64]) -> list[dict[str, Any]]:
    """For each link, of the images led to its class that did not show its feature before."""
    found: list[dict[str, Any]] = []
    for link in LINKS:
        k = OBJECTS.index(link.object)
        rows = (targets == k) & ~was.shows(link)
        shows, is_object = seen.shows(link)[rows], seen.objects[rows] == k
        found.append(
            {
                "object": link.object,
                "feature": link.feature,
                "images": int(rows.sum()),
                "feature_instead_of_object": _mean(shows & ~is_object) if rows.any() else None,
                "feature_shown": _mean(shows) if rows.any() else None,
                "object_shown": _mean(is_object) if rows.any() else None,
            }
        )
    return found


def _pairs(before: Tensor, after: Tensor) -> Tensor:
    """Each image and what became of it, side by side; a whole number of rows of four."""
    pairs = torch.stack([before, after], 1).flatten(0, 1)
    return pairs[: len(pairs) // 8 * 8] if len(pairs) >= 8 else pairs


def _mean(values: Any) -> float:
    return round(float(np.asarray(values, dtype=np.float64).mean()), 4)
