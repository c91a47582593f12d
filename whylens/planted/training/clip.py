"""Training of the planted CLIP: small open_clip towers for images and captions."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from whylens.images.tensors import to_batch
from whylens.planted.drawing.data import Drawings
from whylens.planted.networks.pipeline import CAPTION_LENGTH
from whylens.planted.training.diffusion import tokenize
from whylens.planted.training.fitting import Schedule, fit

BATCH = 128
NOISE = 0.03


def model_config(tokenizer: Any) -> dict[str, Any]:
    """open_clip's model_cfg: a small ResNet tower and a two-layer text tower."""
    return {
        "embed_dim": 64,
        "vision_cfg": {
            "image_size": 64,
            "layers": [1, 1, 1, 1],
            "width": 12,
            "head_width": 32,
        },
        "text_cfg": {
            "context_length": CAPTION_LENGTH,
            "vocab_size": len(tokenizer),
            "hf_tokenizer_name": "planted",
            "width": 64,
            "heads": 4,
            "layers": 2,
            "pool_type": "eos",
            "eos_id": tokenizer.eos_token_id,
        },
    }


def train_clip(drawings: Drawings, tokenizer: Any, schedule: Schedule, folder: Path) -> nn.Module:
    """Contrastive training on drawn images and their captions (Radford et al. 2021).

    Equal captions in a batch are not counted as negatives of each other: the target spreads over
    them.
    """
    from open_clip.model import CLIP

    torch.manual_seed(schedule.seed)
    network: nn.Module = CLIP(**model_config(tokenizer))
    tokens = tokenize(tokenizer, drawings.captions)
    # Shorter captions keep the class word readable on its own: "a photo of a fish".
    short = tokenize(tokenizer, [c.split(" on ")[0] for c in drawings.captions])

    def loss(step: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(drawings), (BATCH,), generator=generator)
        images = to_batch(drawings.images, rows.numpy()) * 2 - 1
        images = images + 2 * NOISE * torch.randn(images.shape, generator=generator)
        brief = bool(torch.rand((), generator=generator) < 0.5)
        captions = short[rows] if brief else tokens[rows]
        image_side, text_side, scale = network(images, captions)
        logits = scale.clamp(max=100) * image_side @ text_side.T
        same = (captions[:, None] == captions[None]).all(2).float()
        target = same / same.sum(1, keepdim=True)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    return fit("clip", network, loss, schedule, folder)


def save_clip(
    network: nn.Module, tokenizer: Any, class_names: tuple[str, ...], folder: Path
) -> None:
    """Write the folder that open_clip loads as `local-dir:`, with our config.json beside."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    open_clip_config = {
        "model_cfg": model_config(tokenizer),
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(open_clip_config, indent=2) + "\n")
    config = {
        "kind": "clip",
        "class_names": list(class_names),
        "templates": ["a photo of a {class}"],
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    state = {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in network.state_dict().items()
    }
    save_file(state, folder / "open_clip_model.safetensors")
