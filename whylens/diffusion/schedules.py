"""The times of a chain: its steps, as diffusers takes them, and the noise that they take on."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from whylens.diffusion.sampler import Sampler
from whylens.errors import UsageError


class Step(NamedTuple):
    """One step of the chain: the U-Net's time, and alpha bar before and after it.

    Of a latent consistency model also c_skip and c_out, by which its prediction is mixed from the
    latents and x0.
    """

    time: float
    alpha_bar: float
    alpha_bar_after: float
    consistency: tuple[float, float] | None = None


def schedule(sampler: Sampler, steps: int) -> list[Step]:
    """The chain's steps from noise to image, as diffusers takes them.

    Raises
    ------
    UsageError
        If the sampler's schedule has fewer steps.
    """
    if sampler.consistency:
        return _consistency_schedule(sampler, steps)
    if sampler.flow:
        return _flow_schedule(sampler, steps)
    scheduler = sampler.scheduler
    trained = int(scheduler.config.num_train_timesteps)
    if steps <= trained:
        scheduler.set_timesteps(steps)
    # For some numbers of steps, rounding gives trailing times one too many, at -1.
    times = scheduler.timesteps.tolist()[:steps]
    if steps > trained or times[0] >= trained:
        raise UsageError(
            f"{steps} steps are too many for the sampler {sampler.name!r}, which was trained on "
            f"{trained}: lower guidance.chain.steps"
        )
    if hasattr(scheduler, "sigmas"):
        sigmas = scheduler.sigmas.tolist()
        shares = [1 / (1 + sigma**2) for sigma in (*sigmas[:steps], sigmas[-1])]
        return [Step(*row) for row in zip(times, shares[:-1], shares[1:], strict=True)]
    stride = trained // steps
    alphas = scheduler.alphas_cumprod.tolist()
    (last,) = scheduler.final_alpha_cumprod.view(1).tolist()
    return [
        Step(time, alphas[time], alphas[time - stride] if time >= stride else last)
        for time in times
    ]


def _consistency_schedule(sampler: Sampler, steps: int) -> list[Step]:
    """The steps of a latent consistency model; after the last there is no noise."""
    scheduler = sampler.scheduler
    distilled = int(scheduler.config.original_inference_steps)
    if steps > distilled:
        raise UsageError(
            f"{steps} steps are too many for the sampler {sampler.name!r}, a latent consistency "
            f"model that was distilled from {distilled}: lower guidance.chain.steps (1 to 8 are "
            "what it is made for)"
        )
    scheduler.set_timesteps(steps)
    times = scheduler.timesteps.tolist()
    shares = [*(float(scheduler.alphas_cumprod[time]) for time in times), 1.0]
    mixing = [scheduler.get_scalings_for_boundary_condition_discrete(time) for time in times]
    return [Step(*row) for row in zip(times, shares[:-1], shares[1:], mixing, strict=True)]


def _flow_schedule(sampler: Sampler, steps: int) -> list[Step]:
    """The steps of a rectified flow: signal and noise have shares as (1 - sigma)^2 to sigma^2."""
    scheduler = sampler.scheduler
    scheduler.set_timesteps(steps, mu=_shift(sampler))
    signal = [(1 - sigma) ** 2 for sigma in scheduler.sigmas.tolist()]
    noise = [sigma**2 for sigma in scheduler.sigmas.tolist()]
    shares = [kept / (kept + added) for kept, added in zip(signal, noise, strict=True)]
    times = scheduler.timesteps.tolist()
    return [Step(*row) for row in zip(times, shares[:-1], shares[1:], strict=True)]


def _shift(sampler: Sampler) -> float | None:
    """How far times are moved towards noise, where that follows from the number of patches.

    A straight line through the configuration's two, as in diffusers' own pipeline.
    """
    config = sampler.scheduler.config
    if not config.use_dynamic_shifting:
        return None
    patches = (sampler.latent_shape[-1] // int(sampler.denoiser.config.patch_size)) ** 2
    slope = (config.max_shift - config.base_shift) / (
        config.max_image_seq_len - config.base_image_seq_len
    )
    return float(config.base_shift + slope * (patches - config.base_image_seq_len))


def fresh_noise(sampler: Sampler, seeds: Sequence[int], steps: int) -> Tensor | None:
    """The noise that a consistency model's chain takes on, as offsets [B, T, c, h, w].

    It is drawn on from where the seed's initial latents were drawn, as diffusers does, and zero
    after the last step. None for other samplers, whose chains take on none.
    """
    if not sampler.consistency:
        return None
    sizes = [math.sqrt(1 - step.alpha_bar_after) for step in schedule(sampler, steps)]
    noise = sampler.noise(seeds, steps + 1)[:, 1:]
    return noise * noise.new_tensor(sizes).view(-1, 1, 1, 1)
