"""Samplers: diffusers pipelines as differentiable maps from latents and prompts to images."""

from typing import TYPE_CHECKING

from whylens.lazy import lazily

if TYPE_CHECKING:
    from whylens.diffusion.chain import Conditioning, condition, run_chain, sample
    from whylens.diffusion.inversion import Inversion, invert, invert_images, invert_null_text
    from whylens.diffusion.loading import load_sampler
    from whylens.diffusion.sampler import Sampler

__all__ = [
    "Conditioning",
    "Inversion",
    "Sampler",
    "condition",
    "invert",
    "invert_images",
    "invert_null_text",
    "load_sampler",
    "run_chain",
    "sample",
]

__getattr__ = lazily(
    __name__,
    {
        **dict.fromkeys(("Conditioning", "condition", "run_chain", "sample"), "chain"),
        **dict.fromkeys(("Inversion", "invert", "invert_images", "invert_null_text"), "inversion"),
        "load_sampler": "loading",
        "Sampler": "sampler",
    },
)
