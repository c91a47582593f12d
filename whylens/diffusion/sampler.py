"""A sampler: a diffusers text-to-image pipeline as differentiable maps between tensors."""

import importlib
import math
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from whylens.compiled import CompiledBlocks
from whylens.diffusion import attention, half
from whylens.errors import UsageError
from whylens.replay import Replayed

# Side in pixels of the largest image that is decoded beside others, and in one piece.
LARGEST_DECODED = 512


class Sampler:
    """The parts of a text-to-image pipeline, frozen, with a deterministic schedule.

    Latents, images and conditioning are float32, and so is all arithmetic of the schedule, where
    the networks are half; the autoencoder is half in bfloat16 only, since it overflows in float16
    (SDXL). A float64 pipeline is float64 throughout.

    Latents are those of DDIM, z = sqrt(a) x0 + sqrt(1 - a) noise, for every schedule. An Euler
    schedule is another choice of times: with sigma^2 = (1 - a) / a, its latents are
    z sqrt(1 + sigma^2), what it gives the U-Net is z, and its step, taken in z, is the DDIM step
    (Song et al. 2021, section 4.3; Karras et al. 2022, appendix B.2). A rectified flow (Liu et al.
    2023; Esser et al. 2024) goes straight from noise to image: at sigma its latents are
    (1 - sigma) x0 + sigma noise, ours at another scale (`seen`), and its Euler step, too, is the
    DDIM step of the x0 and the noise that its velocity says. Latent consistency models (Luo et al.
    2023) have a step of their own (see the module `chain`).

    Attributes
    ----------
    name
        What `load_sampler` was given.
    denoiser, vae
        The pipeline's own modules. The denoiser, which predicts, is a U-Net, or the transformer of
        a flow; texts say U-Net for both.
    scheduler
        An EulerDiscreteScheduler of the pipeline's configuration where it has an Euler schedule
        (ancestral ones lose their noise), an LCMScheduler or a FlowMatchEulerDiscreteScheduler
        where it has one, else a DDIMScheduler. Predictions of x0 are not clipped.
    flow
        Whether it is a rectified flow (Stable Diffusion 3), which predicts a velocity.
    consistency
        Whether its steps are those of a latent consistency model.
    embeds_guidance
        Whether the U-Net takes the guidance scale as an input (latent consistency models): it is
        then asked once a step, and the null text has no effect.
    latent_shape
        (channels, height, width) of one image's latents.
    image_size
        Side of its square images in pixels.
    compiled
        Blocks of its networks that run compiled, once they have been called often enough.
    replayed
        Calls of its U-Net, recorded and replayed where they are; None: every call is plain.
    """

    def __init__(
        self,
        name: str,
        pipeline: Any,
        *,
        image_size: int | None = None,
        set_alpha_to_one: bool | None = None,
        negative_prompt: str = "",
        preview_vae: Any | None = None,
    ) -> None:
        self.name = name
        self.compiled: list[CompiledBlocks] = []
        self.replayed: Replayed | None = None
        self.scheduler = _deterministic(pipeline.scheduler, set_alpha_to_one)
        kinds = importlib.import_module("diffusers")
        self.consistency = isinstance(self.scheduler, kinds.LCMScheduler)
        self.flow = isinstance(self.scheduler, kinds.FlowMatchEulerDiscreteScheduler)
        self.denoiser = pipeline.transformer if self.flow else pipeline.unet
        self.vae, config = pipeline.vae, self.denoiser.config
        self._pipeline, self._negative_prompt = pipeline, negative_prompt
        self._preview = preview_vae
        self.embeds_guidance = config.get("time_cond_proj_dim") is not None
        if negative_prompt and self.embeds_guidance:
            raise UsageError(
                f"the sampler {name!r} takes the guidance scale as an input, and knows of no text "
                "to lead away from: leave negative_prompt out"
            )
        for module in pipeline.components.values():
            if isinstance(module, torch.nn.Module):
                module.requires_grad_(False)
                module.eval()
        if not self.flow:
            attention.install(self.denoiser)
        factor = int(pipeline.vae_scale_factor)
        native = int(config.sample_size) * factor
        self.image_size = native if image_size is None else image_size
        # A transformer takes patches of latents, and has places for so many of them.
        patch = factor * int(config.get("patch_size") or 1)
        most = patch * int(config.get("pos_embed_max_size") or self.image_size)
        if not patch <= self.image_size <= most or self.image_size % patch:
            limit = f", up to {most}" if self.image_size > most else ""
            raise UsageError(
                f"the sampler {name!r} can't make images of {self.image_size} px: the side has to "
                f"be a multiple of {patch}{limit}"
            )
        side = self.image_size // factor
        self.latent_shape = (int(config.in_channels), side, side)
        self._scale = float(self.vae.config.scaling_factor)
        self._shift = float(self.vae.config.get("shift_factor") or 0.0)
        self._noise_scale = _noise_scale(self.scheduler)
        self._times: dict[float, Tensor] = {}
        self._scales: dict[float, Tensor] = {}
        if self.image_size > LARGEST_DECODED:
            # One image's decoder is held a block at a time, and computed again in backward.
            self.vae.enable_gradient_checkpointing(
                partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
            )

    @property
    def device(self) -> torch.device:
        device: torch.device = self.denoiser.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Of latents, images and conditioning; the U-Net's own may be half of it."""
        return outer_dtype(self.denoiser.dtype)

    def announce(self, calls: int) -> None:
        """So many differentiated calls of the U-Net are about to be made: see `CompiledBlocks`."""
        changed = [blocks.announce(calls) for blocks in self.compiled]
        if self.replayed is not None:
            if any(changed):
                self.replayed.forget()
            self.replayed.announce()

    @property
    def prediction(self) -> Any:
        """What the U-Net predicts: "epsilon", "v_prediction" or "flow_prediction"."""
        return "flow_prediction" if self.flow else self.scheduler.config.prediction_type

    def seen(self, latents: Tensor, alpha_bar: float) -> Tensor:
        """Latents [B, c, h, w] as the U-Net takes them: a flow's signal and noise add up to 1."""
        if not self.flow:
            return latents
        return latents / (math.sqrt(alpha_bar) + math.sqrt(1 - alpha_bar))

    def asks_null(self, guidance_scale: float) -> bool:
        """Whether guidance of this scale asks the U-Net about the null text, too.

        At 1 and below there is no guidance, as in diffusers.
        """
        return guidance_scale > 1 and not self.embeds_guidance

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> conditioning [B, L, C]."""
        return self.embed_prompts(prompts)[0]

    @torch.no_grad()
    def embed_prompts(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """(text [B, L, C], pooled [B, P] where the U-Net takes it (SDXL, flows), else None)."""
        text, _, *pooled = self._pipeline.encode_prompt(
            prompt=list(prompts),
            device=self.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
            **self._same_prompt,
        )
        return text.to(self.dtype), pooled[0].to(self.dtype) if pooled else None

    @property
    def _same_prompt(self) -> dict[str, None]:
        """What Stable Diffusion 3's pipeline asks for: no prompts of their own for two encoders."""
        return {"prompt_2": None, "prompt_3": None} if self.flow else {}

    def tokens(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids of prompts, padded and cut to the text encoder's length L."""
        tokenizer = self._pipeline.tokenizer
        out: list[list[int]] = tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=tokenizer.model_max_length,
        ).input_ids
        return out

    def places(self, prompt: str, word: str) -> list[int]:
        """Places in the prompt's tokens at which `word` stands first; none if it is not there.

        The word's tokens are compared, since not every tokenizer says where in a text it was.
        """
        tokenizer = self._pipeline.tokenizer
        (row,) = self.tokens([prompt])
        own = tokenizer(word, add_special_tokens=False).input_ids
        for start in range(len(row) - len(own) + 1 if own else 0):
            if row[start : start + len(own)] == own:
                return list(range(start, start + len(own)))
        return []

    @torch.no_grad()
    def embed_null(self) -> tuple[Tensor, Tensor | None]:
        """As `embed_prompts`, [1, L, C] and [1, P], of what guidance leads away from.

        The negative prompt; without one the empty prompt, or zeros where the pipeline's
        configuration says so (SDXL).
        """
        _, null, *pooled = self._pipeline.encode_prompt(
            prompt=[""],
            device=self.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=True,
            negative_prompt=[self._negative_prompt] if self._negative_prompt else None,
            **self._same_prompt,
        )
        return null.to(self.dtype), pooled[1].to(self.dtype) if pooled else None

    def initial_latents(self, seeds: Sequence[int]) -> Tensor:
        """Normal latents [B, c, h, w], one CPU generator a seed: the same in any batch.

        They are standard normal for DDIM; Euler schedules take off the little that the signal has
        of the variance at the noisiest time.
        """
        return self.noise(seeds, 1)[:, 0] * self._noise_scale

    def noise(self, seeds: Sequence[int], draws: int) -> Tensor:
        """Standard normal [B, draws, c, h, w], one CPU generator a seed: the same in any batch.

        The first draw is that of `initial_latents`; a longer row goes on where a shorter one ends.
        """
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        rows = [
            torch.stack([torch.randn(self.latent_shape, generator=one) for _ in range(draws)])
            for one in generators
        ]
        return torch.stack(rows).to(device=self.device, dtype=self.dtype)

    def predict(
        self,
        latents: Tensor,
        time: float,
        text: Tensor,
        pooled: Tensor | None = None,
        control: attention.Recorder | attention.Injected | None = None,
        *,
        guidance_scale: float = 1.0,
    ) -> Tensor:
        """The U-Net's prediction [B, c, h, w] at latents and a time of the training schedule.

        The latents are the chain's as they are `seen`. `control` records its cross-attention, or
        puts another in its place. `guidance_scale` is for a U-Net that takes it as an input.
        """
        dtype = self.denoiser.dtype
        at = self._at(time)
        own = {} if pooled is None else {"pooled": pooled.to(dtype)}
        if self.embeds_guidance:
            own["guidance"] = self._guidance(guidance_scale)

        def network(z: Tensor, embedding: Tensor) -> Tensor:
            z, embedding = z.to(dtype), embedding.to(dtype)
            if control is None and self.replayed is not None:
                return self.replayed(z, at, embedding, **own)
            return self.call_denoiser(z, at, embedding, **own, control=control)

        if dtype == torch.float16:
            return half.in_range(network, latents, text)
        return network(latents, text)

    def call_denoiser(
        self,
        latents: Tensor,
        time: Tensor,
        text: Tensor,
        pooled: Tensor | None = None,
        guidance: Tensor | None = None,
        control: attention.Recorder | attention.Injected | None = None,
    ) -> Tensor:
        """The U-Net itself: all tensors of its dtype, but for the time, a number on its device.

        `guidance` [C] is the embedding of the guidance scale, for a U-Net that takes one.
        """
        out: Tensor
        if self.flow:
            if control is not None:
                raise attention.no_words(self.name)
            out = self.denoiser(latents, text, pooled, time.expand(len(latents))).sample
            return out
        added = None
        if pooled is not None:
            added = {"text_embeds": pooled, "time_ids": self._sizes.expand(len(latents), -1)}
        out = self.denoiser(
            latents,
            time,
            text,
            timestep_cond=None if guidance is None else guidance.expand(len(latents), -1),
            added_cond_kwargs=added,
            cross_attention_kwargs=None if control is None else {attention.KEYWORD: control},
        ).sample
        return out

    def _at(self, time: float) -> Tensor:
        """A time as a tensor, sent to the device once: else each call would wait for it."""
        if time not in self._times:
            with torch.inference_mode(False):
                self._times[time] = torch.tensor(time, device=self.device)
        return self._times[time]

    def _guidance(self, scale: float) -> Tensor:
        """The guidance scale's embedding [C], sent to the device once."""
        if scale not in self._scales:
            width = int(self.denoiser.config.time_cond_proj_dim)
            with torch.inference_mode(False):
                embedding = guidance_embedding(scale, width)
                self._scales[scale] = embedding.to(self.device, self.denoiser.dtype)
        return self._scales[scale]

    @cached_property
    def _sizes(self) -> Tensor:
        """SDXL's "time ids" [6]: original size, corner of the crop, size."""
        side = self.image_size
        sizes = [side, side, 0, 0, side, side]
        with torch.inference_mode(False):
            return torch.tensor(sizes, dtype=self.denoiser.dtype, device=self.device)

    def encode(self, images: Tensor) -> Tensor:
        """Images [B, 3, S, S] in [0, 1] -> latents [B, c, h, w], scaled.

        Raises
        ------
        UsageError
            If the images are of another size.
        """
        if images.shape[-2:] != (self.image_size, self.image_size):
            height, width = images.shape[-2:]
            raise UsageError(
                f"images of {width} x {height} px don't fit the sampler {self.name!r}, which takes "
                f"{self.image_size} x {self.image_size}: scale them, or load the sampler with "
                "?image_size=PIXELS"
            )
        pixels = images.to(self.dtype) * 2 - 1
        out: Tensor = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist.mode()
        return (out.to(self.dtype) - self._shift) * self._scale

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, c, h, w] -> images [B, 3, S, S] in [0, 1]."""
        scaled = latents.to(self.dtype) / self._scale + self._shift
        out: Tensor = self.vae.decode(scaled.to(self.vae.dtype)).sample
        return clamped(out.to(self.dtype) / 2 + 0.5)

    @property
    def decoded_at_once(self) -> int:
        """Images whose decoder graphs may be alive together: one of 512 px, many small ones."""
        return max(1, LARGEST_DECODED // self.image_size) ** 2

    def preview(self, latents: Tensor) -> Tensor:
        """As `decode`, by the tiny autoencoder where there is one: for predictions on the way."""
        if self._preview is None:
            return self.decode(latents)
        # It takes latents at the sampler's own scale, divided by nothing but its own factor.
        scaled = latents.to(self._preview.dtype) / float(self._preview.config.scaling_factor)
        out: Tensor = self._preview.decode(scaled).sample
        return clamped(out.to(self.dtype) / 2 + 0.5)


def clamped(values: Tensor) -> Tensor:
    """Values clamped to [0, 1]; beyond, only gradients that lead a descent back pass."""
    shown: Tensor = _Clamped.apply(values)  # type: ignore[no-untyped-call]
    return shown


class _Clamped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.save_for_backward(values)
        return values.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (values,) = ctx.saved_tensors
        outwards = ((values < 0) & (gradient > 0)) | ((values > 1) & (gradient < 0))
        return gradient.masked_fill(outwards, 0.0)


def outer_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of what goes in and comes out of networks of this dtype."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def guidance_embedding(guidance_scale: float, width: int) -> Tensor:
    """How a U-Net takes the guidance scale as an input: [1, width].

    Sines and cosines of 1000 (s - 1) at falling frequencies (Luo et al. 2023, whose scale is one
    less than ours). In float32, as the models were trained: 1000 (s - 1) is in the thousands.
    """
    half = width // 2
    frequencies = torch.exp(torch.arange(half) * -(torch.tensor(10000.0).log() / (half - 1)))
    angles = torch.tensor([[1000 * (guidance_scale - 1)]]) * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], 1)
    return torch.nn.functional.pad(waves, (0, width % 2))


def decoder_dtype(dtype: torch.dtype) -> torch.dtype:
    """The autoencoder's dtype in a pipeline of this dtype: what float16 has no range for."""
    return torch.float32 if dtype == torch.float16 else dtype


def _deterministic(own: Any, set_alpha_to_one: bool | None) -> Any:
    """A pipeline's schedule as one whose steps draw nothing, and are known to `chain_step`."""
    kinds = importlib.import_module("diffusers")
    if isinstance(own, kinds.LCMScheduler):
        return kinds.LCMScheduler.from_config(own.config)
    if isinstance(own, kinds.FlowMatchEulerDiscreteScheduler):
        return type(own).from_config(own.config, stochastic_sampling=False)
    if isinstance(own, kinds.EulerDiscreteScheduler | kinds.EulerAncestralDiscreteScheduler):
        return kinds.EulerDiscreteScheduler.from_config(own.config)
    # The others end at x0 in any case.
    end = {} if set_alpha_to_one is None else {"set_alpha_to_one": set_alpha_to_one}
    return kinds.DDIMScheduler.from_config(own.config, **end)


def _noise_scale(scheduler: Any) -> float:
    """Deviation of the first latents z: that of diffusers' own, divided by sqrt(1 + sigma^2).

    A flow begins at noise alone.
    """
    if not hasattr(scheduler, "init_noise_sigma") or not hasattr(scheduler, "sigmas"):
        return 1.0
    scheduler.set_timesteps(10)
    return float(scheduler.init_noise_sigma) / math.sqrt(1 + float(scheduler.sigmas[0]) ** 2)
