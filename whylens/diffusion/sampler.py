"""A sampler: a diffusers text-to-image pipeline as differentiable maps between tensors."""

import importlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from whylens.errors import UsageError

logger = logging.getLogger(__name__)

PLANTED = Path(__file__).parent.parent / "planted" / "weights" / "pipeline"


class Sampler:
    """The parts of a StableDiffusionPipeline, frozen, with a deterministic DDIM schedule.

    Attributes
    ----------
    name
        What `load_sampler` was given.
    unet, vae, scheduler
        The pipeline's own modules and a DDIMScheduler of its configuration.
    latent_shape
        (channels, height, width) of one image's latents.
    image_size
        Side of its square images in pixels.
    """

    def __init__(self, name: str, pipeline: Any) -> None:
        diffusers = importlib.import_module("diffusers")
        self.name = name
        self.unet, self.vae = pipeline.unet, pipeline.vae
        self._tokenizer, self._text_encoder = pipeline.tokenizer, pipeline.text_encoder
        self.scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config)
        for module in (self.unet, self.vae, self._text_encoder):
            module.requires_grad_(False)
            module.eval()
        side = int(self.unet.config.sample_size)
        self.latent_shape = (int(self.unet.config.in_channels), side, side)
        self.image_size = side * int(pipeline.vae_scale_factor)
        self._scale = float(self.vae.config.scaling_factor)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.unet.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.unet.dtype
        return dtype

    @property
    def prediction(self) -> Any:
        """What the U-Net predicts: "epsilon" or "v_prediction"."""
        return self.scheduler.config.prediction_type

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> conditioning [B, L, C]."""
        tokens = self._tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=self._tokenizer.model_max_length,
            return_tensors="pt",
        ).input_ids
        text: Tensor = self._text_encoder(tokens.to(self.device))[0]
        return text.to(self.dtype)

    def initial_latents(self, seeds: Sequence[int]) -> Tensor:
        """Standard normal latents [B, c, h, w], one CPU generator a seed: the same in any batch."""
        rows = [
            torch.randn(self.latent_shape, generator=torch.Generator().manual_seed(seed))
            for seed in seeds
        ]
        return torch.stack(rows).to(device=self.device, dtype=self.dtype)

    def encode(self, images: Tensor) -> Tensor:
        """Images [B, 3, S, S] in [0, 1] -> latents [B, c, h, w], scaled."""
        out: Tensor = self.vae.encode(images.to(self.dtype) * 2 - 1).latent_dist.mode()
        return out * self._scale

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, c, h, w] -> images [B, 3, S, S] in [0, 1]."""
        out: Tensor = self.vae.decode(latents / self._scale).sample
        return (out / 2 + 0.5).clamp(0, 1)


def load_sampler(
    name: str, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> Sampler:
    """A sampler by name: "planted", a diffusers pipeline folder, or a name on the Hub.

    Raises
    ------
    UsageError
        If there is no such pipeline, or it is of a kind that is not supported.
    """
    diffusers = importlib.import_module("diffusers")
    # A bar of half a second for every worker is noise.
    for library in ("diffusers", "transformers"):
        importlib.import_module(f"{library}.utils.logging").disable_progress_bar()
    source = str(PLANTED) if name == "planted" else name
    if (
        name != "planted"
        and ("/" not in name or name.startswith((".", "/")))
        and not (Path(name) / "model_index.json").is_file()
    ):
        raise UsageError(
            f"no sampler {name!r}: name 'planted', a diffusers pipeline folder (with a "
            "model_index.json), or a Hub name such as owner/name"
        )
    try:
        # The class that the folder names: StableDiffusionPipeline itself would take any folder
        # that has parts of the same names, an SDXL one too.
        pipeline = diffusers.DiffusionPipeline.from_pretrained(
            source, dtype=dtype, safety_checker=None, requires_safety_checker=False
        )
    except Exception as error:
        raise UsageError(
            f"the sampler {name!r} can't be loaded as a StableDiffusionPipeline "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
        ) from error
    if not isinstance(pipeline, diffusers.StableDiffusionPipeline):
        raise UsageError(
            f"the sampler {name!r} is a {type(pipeline).__name__}: only a StableDiffusionPipeline "
            "is supported"
        )
    sampler = Sampler(name, pipeline.to(device))
    if sampler.prediction not in ("epsilon", "v_prediction"):
        raise UsageError(
            f"the sampler {name!r} predicts {sampler.prediction!r}: only a U-Net that predicts "
            "epsilon or v_prediction is supported"
        )
    return sampler
