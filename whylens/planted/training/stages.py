"""`whylens planted train`: every weight that the package ships, made again from a seed.

Stages can be trained one by one and stopped at any time: drawings, checkpoints and logs lie in the
work folder, and a stage goes on from its last checkpoint. What is finished is written to the
weights folder.
"""

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from whylens.errors import UsageError
from whylens.planted.drawing.data import Drawings, draw_many, join
from whylens.planted.drawing.world import OBJECTS
from whylens.planted.networks import WEIGHTS
from whylens.planted.networks.pipeline import assemble, build_tokenizer
from whylens.planted.training.autoencoder import (
    FITTED,
    closed_form_autoencoder,
    encode_all,
    patch_components,
    project,
    train_decoder,
)
from whylens.planted.training.classifiers import save_classifier, train_classifier
from whylens.planted.training.clip import save_clip, train_clip
from whylens.planted.training.diffusion import train_diffusion
from whylens.planted.training.fitting import Schedule
from whylens.planted.training.preview import train_preview
from whylens.planted.training.recipes import RECIPES

logger = logging.getLogger(__name__)

STAGES: tuple[str, ...] = ("decoder", "preview", "diffusion", *RECIPES, "clip")

DRAWN = 20_000
CAPTIONED = 40_000
FEATURES = 5_000


@dataclass(frozen=True)
class TrainingPlan:
    """How long each stage trains, and where things lie."""

    work: Path
    weights: Path = WEIGHTS
    seed: int = 0
    decoder_steps: int = 4000
    preview_steps: int = 1000
    diffusion_steps: int = 8_000
    clip_steps: int = 1500
    processes: int = 2


def train(plan: TrainingPlan, stages: Iterable[str] = STAGES) -> None:
    """Run the stages in order; each needs the drawings only, judges, previews and samples also the
    decoder.

    Raises
    ------
    UsageError
        If a stage's name is unknown.
    """
    wanted = tuple(stages)
    for stage in wanted:
        if stage not in STAGES:
            raise UsageError(f"unknown training stage {stage!r}; stages: {', '.join(STAGES)}")
    plan.work.mkdir(parents=True, exist_ok=True)
    for stage in wanted:
        logger.info("stage %s", stage)
        if stage == "decoder":
            _train_decoder(plan)
        elif stage == "preview":
            _train_preview(plan)
        elif stage == "diffusion":
            _train_diffusion(plan)
        elif stage == "clip":
            _train_clip(plan)
        else:
            _train_recipe(stage, plan)


def _drawings(plan: TrainingPlan, split: str, count: int, seed: int) -> Drawings:
    return draw_many(
        split,  # type: ignore[arg-type]
        count,
        1000 * plan.seed + seed,
        folder=plan.work / "data",
        workers=plan.processes,
    )


def _base(plan: TrainingPlan) -> Drawings:
    """What autoencoder and judges see: all features, with and without objects."""
    return join([_drawings(plan, "balanced", DRAWN, 1), _drawings(plan, "features", FEATURES, 1)])


def _train_decoder(plan: TrainingPlan) -> None:
    drawings = _base(plan)
    autoencoder = closed_form_autoencoder(drawings.images, plan.seed)
    schedule = Schedule(plan.decoder_steps, 2e-3, seed=plan.seed)
    train_decoder(autoencoder, drawings.images, schedule, plan.work)
    autoencoder.half().save_pretrained(plan.weights / "pipeline" / "vae")


def _train_preview(plan: TrainingPlan) -> None:
    base = _base(plan)
    vae = _autoencoder(plan).float().eval().to(memory_format=torch.channels_last)
    components = patch_components(base.images[:FITTED])
    latents = project(base.images, *components) * vae.config.scaling_factor
    tiny = train_preview(
        vae, latents, Schedule(plan.preview_steps, 3e-3, seed=plan.seed), plan.work
    )
    tiny.half().save_pretrained(plan.weights / "preview")


def _autoencoder(plan: TrainingPlan) -> Any:
    """The trained autoencoder, in half precision."""
    from diffusers import AutoencoderKL

    folder = plan.weights / "pipeline" / "vae"
    if not (folder / "config.json").exists():
        raise UsageError(f"no autoencoder in {folder.parent}: train the stage 'decoder' first")
    return AutoencoderKL.from_pretrained(folder, dtype=torch.float16)


def _train_diffusion(plan: TrainingPlan) -> None:
    base = _base(plan)
    bare = _drawings(plan, "features", FEATURES, 1)
    drawings = join([_drawings(plan, "clear", CAPTIONED, 2), bare.select(bare.objects < 0)])
    autoencoder = closed_form_autoencoder(base.images, plan.seed)
    components = patch_components(base.images[:FITTED])
    latents = project(drawings.images, *components) * autoencoder.config.scaling_factor
    tokenizer = build_tokenizer(plan.work / "tokenizer")
    schedule = Schedule(plan.diffusion_steps, 1.2e-3, average=0.999, seed=plan.seed)
    unet, text_encoder = train_diffusion(latents, drawings.captions, tokenizer, schedule, plan.work)
    folder = plan.weights / "pipeline"
    vae = _autoencoder(plan)
    # Where it was read from is nobody's business.
    vae.register_to_config(_name_or_path="")
    pipeline = assemble(tokenizer, text_encoder.half(), vae, unet.half())
    pipeline.save_pretrained(folder, safe_serialization=True)


def _train_clip(plan: TrainingPlan) -> None:
    drawings = _drawings(plan, "balanced", DRAWN, 1)
    tokenizer = build_tokenizer(plan.work / "tokenizer")
    network = train_clip(
        drawings, tokenizer, Schedule(plan.clip_steps, 2e-3, seed=plan.seed), plan.work
    )
    save_clip(network, tokenizer, OBJECTS, plan.weights / "classifiers" / "clip")


def _train_recipe(name: str, plan: TrainingPlan) -> None:
    recipe = RECIPES[name]
    decoded = None
    if recipe.decoded:
        drawings = _base(plan)
        decoded = decode_all(plan, drawings)
    else:
        drawings = _drawings(plan, recipe.split, DRAWN, 1)
    network = train_classifier(name, recipe, drawings, plan.work, decoded=decoded)
    save_classifier(network, recipe, plan.weights / "classifiers" / name)


@torch.inference_mode()
def decode_all(plan: TrainingPlan, drawings: Drawings) -> NDArray[np.uint8]:
    """The drawings after the trained autoencoder, with a little noise on the latents.

    Kept in the work folder; [N, 64, 64, 3] uint8.
    """
    path = plan.work / "data" / f"decoded-{len(drawings)}.npy"
    if path.exists():
        kept: NDArray[np.uint8] = np.load(path, allow_pickle=False)
        return kept
    vae = _autoencoder(plan).float().eval()
    generator = torch.Generator().manual_seed(plan.seed)
    parts = []
    for start in range(0, len(drawings), 100):
        latents = encode_all(vae, drawings.images[start : start + 100])
        latents = latents + 0.05 * torch.randn(latents.shape, generator=generator)
        images = (vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
        parts.append((images.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy())
    decoded = np.concatenate(parts)
    np.save(path, decoded)
    return decoded


def training_log(work: Path) -> dict[str, list[dict[str, float]]]:
    """The logged losses of every stage in a work folder."""
    return {
        path.stem: [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted(work.glob("*.jsonl"))
    }
