"""`whylens planted check`: do the shipped weights have the properties that the world promises?"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whylens.classifiers import load_classifier
from whylens.images.tensors import to_batch
from whylens.planted.drawing.data import Drawings, draw_many
from whylens.planted.drawing.world import BACKGROUNDS, COMPANIONS, LINKS, OBJECTS
from whylens.planted.networks import WEIGHTS
from whylens.planted.training.classifiers import l2_attack

logger = logging.getLogger(__name__)

# Test images come from a seed that no training uses.
TEST_SEED = 99
ATTACK_RADIUS = 0.9
ATTACK_STEPS = 30
SAMPLING_STEPS = 20
GUIDANCE_SCALE = 3.0


def check(
    *, images: int = 2000, attacked: int = 500, samples: int = 512, sheet: Path | None = None
) -> dict[str, Any]:
    """What the shipped weights do, as one flat record.

    biased.* and balanced.*: accuracy on the linked and on the unlinked split, over the classes that
    have a link. *.attacked: accuracy under an L2 attack of `attack_radius` ([0, 1] pixels, norm
    over the image). zero_shot: the CLIP-like model on unlinked images. samples.*: how often judges
    find the captioned object, background, companion on sampled images, divided by how often they
    find it on drawn images of the same captions. `sheet`, if given, becomes a PNG of samples.
    """
    record: dict[str, Any] = {}
    splits = {split: _test(split, images) for split in ("linked", "unlinked")}
    linked_classes = [OBJECTS.index(link.object) for link in LINKS]
    for name in ("biased", "balanced"):
        classifier = load_classifier(f"planted:{name}")
        for split, drawings in splits.items():
            right = _predict(classifier, drawings.images).argmax(1) == drawings.objects
            with_link = np.isin(drawings.objects, linked_classes)
            record[f"{name}.{split}"] = _rate(right)
            record[f"{name}.{split}_of_linked_classes"] = _rate(right[with_link])
    balanced = _test("unlinked", attacked)
    pixels = to_batch(balanced.images, slice(None))
    labels = torch.from_numpy(balanced.objects)
    for name in ("robust", "biased"):
        classifier = load_classifier(f"planted:{name}")
        change = l2_attack(classifier.logits, pixels, labels, ATTACK_RADIUS, ATTACK_STEPS)
        with torch.inference_mode():
            right_attacked = classifier.logits(change).argmax(1) == labels
        record[f"{name}.attacked"] = _rate(right_attacked.numpy())
    record["attack_radius"] = ATTACK_RADIUS
    clip = load_classifier("planted:clip")
    unlinked = splits["unlinked"]
    record["zero_shot"] = _rate(_predict(clip, unlinked.images).argmax(1) == unlinked.objects)
    if samples:
        record.update(check_samples(samples, sheet))
    size = sum(f.stat().st_size for f in WEIGHTS.rglob("*") if f.is_file())
    record["weights_mb"] = round(size / 1e6, 2)
    return record


def check_samples(count: int, sheet: Path | None = None) -> dict[str, float]:
    """Judges on sampled images against judges on drawn images of the same captions."""
    drawn = _test("balanced", count)
    sampled = sample_images(drawn.captions, seed=TEST_SEED)
    if sheet is not None:
        save_sheet(sampled, sheet)
    record: dict[str, float] = {}
    judged = {
        "object": (drawn.objects, len(OBJECTS)),
        "background": (drawn.backgrounds, len(BACKGROUNDS)),
        "companion": (drawn.companions, len(COMPANIONS)),
    }
    for target, (labels, absent) in judged.items():
        judge = load_classifier(f"planted:judge_{target}")
        truth = np.where(labels < 0, absent, labels)
        rates = {
            "sampled": _rate(_predict(judge, sampled).argmax(1) == truth),
            "drawn": _rate(_predict(judge, drawn.images).argmax(1) == truth),
        }
        record[f"samples.{target}"] = round(rates["sampled"] / rates["drawn"], 4)
        record[f"samples.{target}_sampled"] = rates["sampled"]
        record[f"samples.{target}_drawn"] = rates["drawn"]
    return record


def sample_images(captions: list[str], seed: int, batch: int = 64) -> NDArray[np.uint8]:
    """diffusers' own sampling from captions: guidance 3, 20 DDIM steps; [N, 64, 64, 3] uint8."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(
        WEIGHTS / "pipeline", dtype=torch.float32, safety_checker=None
    )
    pipeline.set_progress_bar_config(disable=True)
    parts = []
    for start in range(0, len(captions), batch):
        some = captions[start : start + batch]
        generators = [
            torch.Generator().manual_seed(seed * 1_000_003 + start + i) for i in range(len(some))
        ]
        images = pipeline(
            some,
            num_inference_steps=SAMPLING_STEPS,
            guidance_scale=GUIDANCE_SCALE,
            generator=generators,
            output_type="np",
        ).images
        parts.append(np.round(images * 255).astype(np.uint8))
        logger.info("sampled %d of %d images", start + len(some), len(captions))
    return np.concatenate(parts)


def save_sheet(images: NDArray[np.uint8], path: Path, columns: int = 16, rows: int = 8) -> None:
    """The first images as a grid, twice their size."""
    from PIL import Image

    count = min(len(images), columns * rows) // columns * columns
    grid = images[:count].reshape(-1, columns, *images.shape[1:]).transpose(0, 2, 1, 3, 4)
    height, width = grid.shape[0] * grid.shape[1], columns * images.shape[2]
    picture = Image.fromarray(grid.reshape(height, width, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.resize((2 * width, 2 * height), Image.Resampling.LANCZOS).save(path)


def _test(split: str, count: int) -> Drawings:
    return draw_many(split, count, TEST_SEED)  # type: ignore[arg-type]


@torch.inference_mode()
def _predict(classifier: Any, images: NDArray[np.uint8], batch: int = 250) -> NDArray[np.float32]:
    parts: list[Tensor] = [
        classifier.probabilities(to_batch(images, slice(i, i + batch)))
        for i in range(0, len(images), batch)
    ]
    probabilities: NDArray[np.float32] = torch.cat(parts).numpy()
    return probabilities


def _rate(right: NDArray[np.bool_]) -> float:
    return round(float(right.mean()), 4)
