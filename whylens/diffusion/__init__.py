"""Samplers: diffusers pipelines as differentiable maps from latents and prompts to images."""

from typing import TYPE_CHECKING

from whylens.lazy import lazily

if TYPE_CHECKING:
    from whylens.diffusion.chain import Conditioning, condition, invert, run_chain, sample
    from whylens.diffusion.loading import load_sampler
    from whylens.diffusion.sampler import Sampler

__all__ = [
    "Conditioning",
    "Sampler",
    "condition",
    "invert",
    "load_sampler",
    "run_chain",
    "sample",
]

__getattr__ = lazily(
    __name__,
    {
        **dict.fromkeys(("Conditioning", "condition", "invert", "run_chain", "sample"), "chain"),
        "load_sampler": "loading",
        "Sampler": "sampler",
    },
)
