"""The planted pipeline's autoencoder: an encoder in closed form and a trained decoder.

The encoder is the principal component analysis of 4 x 4 pixel patches, written into the weights of
an ordinary AutoencoderKL: its residual branches are zero, its strided convolutions take patches
apart and project them, and its last norm is made linear by constant channels. Latents are so
known before any training; the decoder and the U-Net can be trained side by side.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from whylens.images.tensors import to_batch
from whylens.planted.networks.pipeline import LATENT_CHANNELS, build_autoencoder
from whylens.planted.training.fitting import Schedule, fit

BATCH = 16
# Images whose patches make the components.
FITTED = 3000
PATCH = 4
EDGE_WEIGHT = 0.5
# Latent channel i has sd sd_i ** (1 - WHITENING): later components are raised, not equalised.
WHITENING = 0.6
# Sd of the noise on latents in the decoder's training, relative to theirs: samples are not exact.
DECODER_NOISE = 0.06
# The constants that keep the encoder's last norm and SiLU linear.
_ANCHOR = 16.0
_LIFT = 12.0


def patch_components(images: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """Projection [12, 48] and mean [48] of 4 x 4 patches of images in [-1, 1], partly whitened.

    A patch is laid out (row pair, column pair, row, column, channel), as the encoder takes it
    apart.
    """
    n, size = len(images), images.shape[1]
    blocks = size // PATCH
    pixels = torch.from_numpy(images).double() / 127.5 - 1
    patches = pixels.reshape(n, blocks, 2, 2, blocks, 2, 2, 3)
    rows = patches.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(-1, PATCH * PATCH * 3)
    mean = rows.mean(0)
    variance, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
    keep = torch.arange(len(variance) - 1, len(variance) - 1 - LATENT_CHANNELS, -1)
    scale = variance[keep].sqrt() ** -WHITENING
    return (vectors[:, keep] * scale).T.float(), mean.float()


def project(images: NDArray[np.uint8], projection: Tensor, mean: Tensor) -> Tensor:
    """What the encoder computes, as one matrix product: unscaled latents [N, 12, 16, 16].

    A hundred times faster than the encoder itself, and equal to it within about 0.02.
    """
    blocks = images.shape[1] // PATCH
    parts = []
    for start in range(0, len(images), 1000):
        pixels = torch.from_numpy(images[start : start + 1000]).float() / 127.5 - 1
        patches = pixels.reshape(-1, blocks, 2, 2, blocks, 2, 2, 3).permute(0, 1, 4, 2, 5, 3, 6, 7)
        rows = patches.reshape(-1, blocks, blocks, PATCH * PATCH * 3)
        parts.append(((rows - mean) @ projection.T).permute(0, 3, 1, 2).contiguous())
    return torch.cat(parts)


@torch.no_grad()
def write_encoder(autoencoder: Any, projection: Tensor, mean: Tensor) -> None:
    """Write projection [12, 48] and mean [48] into the encoder's weights."""
    encoder = autoencoder.encoder
    first, second, third = encoder.down_blocks
    resnets = [b.resnets[0] for b in (first, second, third)]
    for resnet in [*resnets, *encoder.mid_block.resnets]:
        resnet.conv2.weight.zero_()
        resnet.conv2.bias.zero_()
    _clear(encoder.conv_in)
    for c in range(3):
        encoder.conv_in.weight[c, c, 1, 1] = 1.0
    take_apart = _clear(first.downsamplers[0].conv)
    for a in range(2):
        for b in range(2):
            for c in range(3):
                take_apart.weight[3 * (2 * a + b) + c, c, a, b] = 1.0
    pass_on = _clear(second.resnets[0].conv_shortcut)
    for c in range(12):
        pass_on.weight[c, c, 0, 0] = 1.0
    project = _clear(second.downsamplers[0].conv)
    grid = projection.reshape(LATENT_CHANNELS, 2, 2, 12)
    project.weight[:LATENT_CHANNELS, :12, :2, :2] = grid.permute(0, 3, 1, 2)
    project.bias[:LATENT_CHANNELS] = -projection @ mean
    # Four groups of 16 channels: three signals, their negatives, five constants of each sign.
    spread = _clear(third.resnets[0].conv_shortcut)
    out, bias = _clear(encoder.conv_out), encoder.conv_norm_out.bias
    scale = _ANCHOR * (10 / 16) ** 0.5
    encoder.conv_norm_out.weight.fill_(scale)
    bias.fill_(_LIFT)
    for signal in range(LATENT_CHANNELS):
        channel = 16 * (signal // 3) + signal % 3
        spread.weight[channel, signal, 0, 0] = 1.0
        spread.weight[channel + 3, signal, 0, 0] = -1.0
        out.weight[signal, channel, 1, 1] = 1.0
        out.bias[signal] = -_LIFT
    for group in range(4):
        spread.bias[16 * group + 6 : 16 * group + 11] = _ANCHOR
        spread.bias[16 * group + 11 : 16 * group + 16] = -_ANCHOR
    out.bias[LATENT_CHANNELS:] = -12.0
    identity = _clear(autoencoder.quant_conv)
    for c in range(2 * LATENT_CHANNELS):
        identity.weight[c, c, 0, 0] = 1.0


def _clear(convolution: Any) -> Any:
    convolution.weight.zero_()
    convolution.bias.zero_()
    return convolution


def closed_form_autoencoder(images: NDArray[np.uint8], seed: int) -> Any:
    """An autoencoder whose encoder fits `images` [N, 64, 64, 3] uint8; its decoder is untrained."""
    torch.manual_seed(seed)
    autoencoder = build_autoencoder()
    write_encoder(autoencoder, *patch_components(images[:FITTED]))
    latents = encode_all(autoencoder, images[:1000])
    autoencoder.register_to_config(scaling_factor=round(1 / float(latents.std()), 4))
    return autoencoder.to(memory_format=torch.channels_last)


@torch.inference_mode()
def encode_all(autoencoder: Any, images: NDArray[np.uint8], batch: int = 100) -> Tensor:
    """Unscaled latents [N, 12, 16, 16] of images [N, 64, 64, 3] uint8."""
    parts = [
        autoencoder.encode(to_batch(images, slice(i, i + batch)) * 2 - 1).latent_dist.mean
        for i in range(0, len(images), batch)
    ]
    return torch.cat(parts)


def reconstruction_loss(reconstruction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error of pixels and of their differences to neighbours (sharp edges)."""
    loss = F.l1_loss(reconstruction, target)
    for dim in (2, 3):
        difference = F.l1_loss(reconstruction.diff(dim=dim), target.diff(dim=dim))
        loss = loss + EDGE_WEIGHT * difference
    return loss


class _Decoder(nn.Module):
    """The half of an autoencoder that is trained."""

    def __init__(self, autoencoder: Any) -> None:
        super().__init__()
        self.post_quant_conv = autoencoder.post_quant_conv
        self.decoder = autoencoder.decoder

    def forward(self, latents: Tensor) -> Tensor:
        out: Tensor = self.decoder(self.post_quant_conv(latents))
        return out


def train_decoder(
    autoencoder: Any, images: NDArray[np.uint8], schedule: Schedule, folder: Path
) -> None:
    """Train the decoder in place on images [N, 64, 64, 3] uint8 and their latents."""
    latents = project(images, *patch_components(images[:FITTED]))
    spread = DECODER_NOISE * latents[:1000].std((0, 2, 3), keepdim=True)
    decoder = _Decoder(autoencoder)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(images), (BATCH,), generator=generator)
        target = to_batch(images, rows.numpy()) * 2 - 1
        noise = torch.randn((BATCH, *latents.shape[1:]), generator=generator)
        noise = noise * spread * torch.rand(BATCH, 1, 1, 1, generator=generator) * 2
        batch = (latents[rows] + noise).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            reconstruction = decoder(batch).float()
        return reconstruction_loss(reconstruction, target)

    fit("decoder", decoder, loss, schedule, folder)
