"""Training of the planted pipeline's U-Net and text encoder on captioned latents."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from whylens.planted.networks.pipeline import build_scheduler, build_text_encoder, build_unet
from whylens.planted.training.fitting import Schedule, fit

BATCH = 32
# How often a caption is replaced by the empty one, for classifier-free guidance.
DROPPED = 0.12
# The part of time steps that are drawn evenly over the chain.
EVEN = 0.25


def train_diffusion(
    latents: Tensor, captions: list[str], tokenizer: Any, schedule: Schedule, folder: Path
) -> tuple[Any, Any]:
    """(unet, text encoder) trained on scaled latents [N, 12, 16, 16] with their captions.

    v-prediction (Salimans and Ho 2022, equation 11).
    """
    torch.manual_seed(schedule.seed)
    unet = build_unet().to(memory_format=torch.channels_last)
    text_encoder = build_text_encoder(tokenizer)
    alpha_bars = build_scheduler().alphas_cumprod
    tokens = tokenize(tokenizer, captions)
    empty = tokenize(tokenizer, [""])

    def loss(step: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(latents), (BATCH,), generator=generator)
        times = _times(len(alpha_bars), generator)
        drop = torch.rand(BATCH, 1, generator=generator) < DROPPED
        clean = latents[rows]
        noise = torch.randn(clean.shape, generator=generator)
        keep = alpha_bars[times].sqrt().view(-1, 1, 1, 1)
        add = (1 - alpha_bars[times]).sqrt().view(-1, 1, 1, 1)
        noisy = (keep * clean + add * noise).contiguous(memory_format=torch.channels_last)
        text = text_encoder(torch.where(drop, empty, tokens[rows]))[0]
        velocity = unet(noisy, times, text).sample
        return F.mse_loss(velocity, keep * noise - add * clean)

    both = nn.ModuleDict({"unet": unet, "text_encoder": text_encoder})
    fit("diffusion", both, loss, schedule, folder)
    return unet, text_encoder


def _times(steps: int, generator: torch.Generator) -> Tensor:
    """Time steps [B]: mostly in the middle, where shapes are decided (Esser et al. 2024, 3.1)."""
    middle = torch.sigmoid(0.2 + torch.randn(BATCH, generator=generator))
    even = torch.rand(BATCH, generator=generator)
    chosen = torch.where(torch.rand(BATCH, generator=generator) < EVEN, even, middle)
    return (chosen * steps).long().clamp(0, steps - 1)


def tokenize(tokenizer: Any, captions: list[str]) -> Tensor:
    """Token numbers [N, 16]."""
    out: Tensor = tokenizer(
        captions,
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    ).input_ids
    return out
