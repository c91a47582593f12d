"""Samplers: diffusers pipelines as differentiable maps from latents and prompts to images."""

from typing import TYPE_CHECKING

from whylens.lazy import lazily

if TYPE_CHECKING:
    from whylens.diffusion.chain import denoise, result, sample
    from whylens.diffusion.conditioning import Conditioning, condition
    from whylens.diffusion.inversion import Inversion, invert, invert_images, invert_null_text
    from whylens.diffusion.loading import check_sampler, load_sampler
    from whylens.diffusion.sampler import Sampler

__all__ = [
    "Conditioning",
    "Inversion",
    "Sampler",
    "check_sampler",
    "condition",
    "denoise",
    "invert",
    "invert_images",
    "invert_null_text",
    "load_sampler",
    "result",
    "sample",
]

__getattr__ = lazily(
    __name__,
    {
        **dict.fromkeys(("denoise", "result", "sample"), "chain"),
        **dict.fromkeys(("Conditioning", "condition"), "conditioning"),
        **dict.fromkeys(("Inversion", "invert", "invert_images", "invert_null_text"), "inversion"),
        **dict.fromkeys(("check_sampler", "load_sampler"), "loading"),
        "Sampler": "sampler",
    },
)
