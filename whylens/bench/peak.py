"""What a device can do, and what a U-Net asks of it."""

import importlib

import torch
from torch import Tensor

from whylens.diffusion.sampler import Sampler
from whylens.timing import best_of

# Sides of the matrices whose product shows what a device can do.
SIDES = {"cuda": 8192, "cpu": 1024}


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Floating point operations a second of a large matrix product, measured."""
    side = SIDES.get(device.type, SIDES["cpu"])
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / best_of(lambda: one @ other, device, 10)


def unet_flops(sampler: Sampler, rows: int) -> float:
    """Floating point operations of the U-Net's forward and backward on so many latents.

    Counted on a copy without weights, in diffusers' own modules; backward to latents and text,
    since parameters are frozen.
    """
    counter = importlib.import_module("torch.utils.flop_counter").FlopCounterMode(display=False)
    text, pooled = sampler.embed_prompts(["a"])
    added: dict[str, Tensor] | None = None
    with torch.device("meta"):
        bare = type(sampler.denoiser).from_config(sampler.denoiser.config).requires_grad_(False)
        latents = torch.randn(1, *sampler.latent_shape, requires_grad=True)
        embedding = torch.randn(text.shape, requires_grad=True)
        if pooled is not None and not sampler.flow:
            added = {"text_embeds": torch.randn(pooled.shape), "time_ids": torch.ones(1, 6)}
        with counter:
            if sampler.flow:
                assert pooled is not None
                out = bare(latents, embedding, torch.randn(pooled.shape), torch.ones(1)).sample
            else:
                out = bare(latents, 1, embedding, added_cond_kwargs=added).sample
            out.sum().backward()  # of leaves the counter takes this alone
    return float(counter.get_total_flops()) * rows
