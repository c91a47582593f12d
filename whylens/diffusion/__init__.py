"""Samplers: diffusers pipelines as differentiable maps from latents and prompts to images."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whylens.diffusion.chain import Conditioning, condition, invert, run_chain, sample
    from whylens.diffusion.sampler import Sampler, load_sampler

__all__ = [
    "Conditioning",
    "Sampler",
    "condition",
    "invert",
    "load_sampler",
    "run_chain",
    "sample",
]


def __getattr__(name: str) -> Any:
    # Loaded on first use, so that importing the package does not import torch.
    if name in __all__:
        from importlib import import_module

        home = "sampler" if name in ("Sampler", "load_sampler") else "chain"
        return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
