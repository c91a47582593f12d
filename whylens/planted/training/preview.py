"""The planted pipeline's tiny autoencoder: a decoder that learned from the planted decoder.

Its encoder is there because the class has one; it is untrained, as small as can be, and never
asked. (Bohan 2023, TAESD, distils Stable Diffusion's autoencoder so.)
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from whylens.planted.networks.pipeline import build_preview
from whylens.planted.training.autoencoder import reconstruction_loss
from whylens.planted.training.fitting import Schedule, fit

BATCH = 8
# Sd of the noise on latents of unit deviation, at most: predictions on the way are not exact.
NOISE = 0.3


def train_preview(autoencoder: Any, latents: Tensor, schedule: Schedule, folder: Path) -> Any:
    """An AutoencoderTiny that decodes latents [N, c, h, w], scaled, as `autoencoder` does."""
    torch.manual_seed(schedule.seed)
    tiny = build_preview().to(memory_format=torch.channels_last)
    factor = autoencoder.config.scaling_factor

    def loss(step: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(latents), (BATCH,), generator=generator)
        noise = torch.randn((BATCH, *latents.shape[1:]), generator=generator)
        size = NOISE * torch.rand(BATCH, 1, 1, 1, generator=generator).square()
        batch = (latents[rows] + size * noise).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            target = autoencoder.decode(batch / factor).sample
        return reconstruction_loss(tiny.decode(batch).sample, target)

    fit("preview", tiny.decoder, loss, schedule, folder)
    return tiny
