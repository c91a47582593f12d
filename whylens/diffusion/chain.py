"""The chain: a deterministic DDIM trajectory from noise to latents, differentiable end to end.

Song, Meng and Ermon 2021, equation 12 with sigma = 0; guidance after Ho and Salimans 2022. Every
step is recomputed in the backward pass, so that memory holds one step's activations.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from whylens.diffusion.sampler import Sampler
from whylens.kernels import guided_ddim_step


@dataclass(frozen=True)
class Conditioning:
    """What steers the chain beside its start.

    text, null
        Embeddings of the prompts and of the empty prompt, [B, L, C].
    text_delta, null_delta
        What is added at each time step, [T, B, L, C].
    offsets
        What is added to the latents after each step, [T, B, c, h, w]: the corrections of an
        inverted image (see `invert`).
    """

    text: Tensor
    null: Tensor
    text_delta: Tensor | None = None
    null_delta: Tensor | None = None
    offsets: Tensor | None = None

    def select(self, rows: Tensor) -> "Conditioning":
        """The conditioning of some problems of the batch."""
        return Conditioning(
            self.text[rows],
            self.null[rows],
            None if self.text_delta is None else self.text_delta[:, rows],
            None if self.null_delta is None else self.null_delta[:, rows],
            None if self.offsets is None else self.offsets[:, rows],
        )

    def with_text(self, text: Tensor) -> "Conditioning":
        """The same with another prompt."""
        return replace(self, text=text)


def condition(sampler: Sampler, prompts: list[str]) -> Conditioning:
    """The conditioning of prompts, nothing added."""
    null = sampler.encode_prompts([""]).expand(len(prompts), -1, -1)
    return Conditioning(sampler.encode_prompts(prompts), null)


def schedule(sampler: Sampler, steps: int) -> list[tuple[int, float, float]]:
    """(time, alpha bar, alpha bar after the step), from noise to image, as diffusers steps."""
    scheduler = sampler.scheduler
    scheduler.set_timesteps(steps)
    stride = scheduler.config.num_train_timesteps // steps
    rows = []
    for time in scheduler.timesteps.tolist():
        before = float(scheduler.alphas_cumprod[time])
        after = time - stride
        last = scheduler.final_alpha_cumprod
        rows.append(
            (int(time), before, float(scheduler.alphas_cumprod[after] if after >= 0 else last))
        )
    return rows


def run_chain(
    sampler: Sampler,
    latents: Tensor,
    conditioning: Conditioning,
    *,
    steps: int,
    guidance_scale: float,
    keep_last: int = 1,
) -> list[Tensor]:
    """The last `keep_last` predictions of x0, [B, c, h, w] each; the last one is the result.

    latents [B, c, h, w] at the noisiest time; differentiable in them and in the conditioning.
    """
    predictions: list[Tensor] = []
    differentiated = torch.is_grad_enabled()
    times = schedule(sampler, steps)
    for index, (time, alpha_bar, alpha_bar_after) in enumerate(times):
        text = _plus(conditioning.text, conditioning.text_delta, index)
        null = _plus(conditioning.null, conditioning.null_delta, index)
        arguments = (sampler, latents, text, null, time, alpha_bar, alpha_bar_after, guidance_scale)
        if differentiated:
            latents, x0 = checkpoint(chain_step, *arguments, use_reentrant=False)
        else:
            latents, x0 = chain_step(*arguments)
        if conditioning.offsets is not None:
            latents = latents + conditioning.offsets[index]
        if index >= steps - keep_last:
            # After the last step the latents are x0 with its correction.
            predictions.append(latents if index == steps - 1 else x0)
    return predictions


def chain_step(
    sampler: Sampler,
    latents: Tensor,
    text: Tensor,
    null: Tensor,
    time: int,
    alpha_bar: float,
    alpha_bar_after: float,
    guidance_scale: float,
) -> tuple[Tensor, Tensor]:
    """One guided step: (latents after it, x0 as predicted before it)."""
    if guidance_scale == 1.0:
        noise, noise_null = sampler.unet(latents, time, text).sample, None
    else:
        both = sampler.unet(torch.cat([latents, latents]), time, torch.cat([text, null])).sample
        noise, noise_null = both.chunk(2)
    out: tuple[Tensor, Tensor] = guided_ddim_step(
        latents,
        noise,
        noise_null,
        guidance_scale=guidance_scale,
        alpha_bar=alpha_bar,
        alpha_bar_prev=alpha_bar_after,
        prediction=sampler.prediction,
    )
    return out


def _plus(embedding: Tensor, delta: Tensor | None, index: int) -> Tensor:
    return embedding if delta is None else embedding + delta[index]


@torch.no_grad()
def invert(
    sampler: Sampler,
    latents: Tensor,
    conditioning: Conditioning,
    *,
    steps: int,
    guidance_scale: float,
) -> tuple[Tensor, Conditioning]:
    """(noise, conditioning with offsets) from which the guided chain returns to `latents` exactly.

    DDIM inversion at guidance 1 gives the noise and the way there; the difference that a guided
    step makes to that way is kept as the step's offset (Ju et al. 2024, "Direct Inversion"). It
    costs one chain, where null-text inversion costs ten, and leaves no error.
    """
    times = schedule(sampler, steps)
    way = [latents]
    for time, alpha_bar, alpha_bar_after in reversed(times):
        # A step backwards: what the model predicts here, taken to the noisier time.
        following, _ = chain_step(
            sampler, way[-1], conditioning.text, conditioning.null, time, alpha_bar_after,
            alpha_bar, 1.0,
        )  # fmt: skip
        way.append(following)
    way.reverse()
    offsets = []
    for index, (time, alpha_bar, alpha_bar_after) in enumerate(times):
        step, _ = chain_step(
            sampler, way[index], conditioning.text, conditioning.null, time, alpha_bar,
            alpha_bar_after, guidance_scale,
        )  # fmt: skip
        offsets.append(way[index + 1] - step)
    return way[0], replace(conditioning, offsets=torch.stack(offsets))


@torch.inference_mode()
def sample(
    sampler: Sampler,
    prompts: list[str],
    seeds: list[int],
    *,
    steps: int = 20,
    guidance_scale: float = 3.0,
) -> Tensor:
    """Images [B, 3, S, S] in [0, 1] of prompts, nothing optimised."""
    (latents,) = run_chain(
        sampler,
        sampler.initial_latents(seeds),
        condition(sampler, prompts),
        steps=steps,
        guidance_scale=guidance_scale,
    )
    return sampler.decode(latents)
