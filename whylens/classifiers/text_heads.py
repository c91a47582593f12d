"""Heads made of text: 80 prompts for each of 1,000 classes take a CPU an hour, so they are kept.

A head is kept in `$WHYLENS_CACHE/text_heads`, `~/.cache/whylens` where that is not set, under a
name that tells the text tower's weights, the classes' words with their tokens, and the templates.
"""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

logger = logging.getLogger(__name__)

# Of how a head is made: heads of other formats are not read.
FORMAT = 1


@torch.no_grad()  # an inference tensor could not take part in gradients
def text_head(
    model: nn.Module, tokenizer: Any, words: Sequence[str], templates: Sequence[str]
) -> Tensor:
    """The head's weight [K, D]: for each class, its prompts' mean embedding, scaled.

    As open_clip's `build_zero_shot_classifier` does it, times exp(logit scale); where the model is.
    """
    clip = cast(Any, model)
    device, rows = clip.logit_scale.device, []
    for word in words:
        tokens = tokenizer([template.replace("{class}", word) for template in templates])
        embedding = F.normalize(clip.encode_text(tokens.to(device)), dim=-1).mean(0)
        rows.append(F.normalize(embedding, dim=-1))
    weight: Tensor = clip.logit_scale.exp() * torch.stack(rows)
    return weight


def kept_text_head(
    model: nn.Module, tokenizer: Any, words: Sequence[str], templates: Sequence[str]
) -> Tensor:
    """`text_head`, or the same that was made before on this machine."""
    path = folder() / f"{_key(model, tokenizer, words, templates)}.safetensors"
    device = cast(Any, model).logit_scale.device
    try:
        return load_file(path)["weight"].to(device)
    except (OSError, SafetensorError, KeyError):
        logger.info("embedding %d prompts for each of %d classes", len(templates), len(words))
    weight = text_head(model, tokenizer, words, templates)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}")
        save_file({"weight": weight.cpu().contiguous()}, aside)
        aside.replace(path)
    except (OSError, SafetensorError) as error:
        logger.info("the head could not be kept in %s: %s", path.parent, error)
    return weight


def folder() -> Path:
    """Where heads are kept."""
    cache = os.environ.get("WHYLENS_CACHE") or Path.home() / ".cache" / "whylens"
    return Path(cache) / "text_heads"


def _key(model: nn.Module, tokenizer: Any, words: Sequence[str], templates: Sequence[str]) -> str:
    digest = hashlib.sha256()
    digest.update(json.dumps([FORMAT, list(words), list(templates)]).encode())
    for tokens in (tokenizer(list(words)), tokenizer(list(templates))):
        digest.update(tokens.cpu().numpy().tobytes())
    for name, tensor in model.state_dict().items():
        if not name.startswith("visual."):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
