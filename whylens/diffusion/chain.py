"""The chain: a deterministic trajectory from noise to latents, differentiable end to end.

Song, Meng and Ermon 2021, equation 12 with sigma = 0, for DDIM and Euler schedules alike (see
`Sampler`); guidance after Ho and Salimans 2022.

What backward needs of a step, the U-Net's activations, is far larger than latents. The chain is cut
into segments of `held_steps` steps: forward keeps the latents at their starts and all of the last
segment, backward computes each other segment again. With h held steps of T, F the time of a U-Net
call and B of its backward, peak memory and time are

    h = T              T steps                   T (F + B)                  plain autograd
    h = 2 sqrt(T)      2 sqrt(T) steps           T (F + B) + (T - h) F      the default
    h = 1              1 step and T latents      T (F + B) + (T - 1) F      least memory

all with the same, exact gradients. B is about F, since parameters are frozen: no h takes much more
than 1.5 times as long as plain autograd, the default 1.3 times at T = 20 and 1.35 times at T = 40
(tests/benchmarks/memory.py; plain autograd's memory is 1.9 and 2.9 times the default's there).
`gradient_steps` = k holds at most k steps whatever T is, and takes T F + k B and what of the k
steps is recomputed. Its cost is a bias (see `run_chain`): on the planted sampler, T = 10, six
images towards a target class, the loss fell from 18.1 in eight optimisation steps to 6.2 with exact
gradients, 5.7 with k = 6, 6.4 with k = 4, 8.7 with k = 2, in 17, 12, 10 and 9 seconds.
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from whylens.diffusion.attention import Injected, Injection, Recorder
from whylens.diffusion.sampler import Sampler
from whylens.errors import UsageError
from whylens.kernels import guided_ddim_step


@dataclass(frozen=True)
class Blend:
    """Latents of a way, put in place of the chain's outside of a mask.

    way [T, B, c, h, w] are the latents after each step, mask [B, 1, h, w] is 1 where the chain's
    own stay, start [B] the first step after which a problem is blended.
    """

    way: Tensor
    mask: Tensor
    start: Tensor

    def after(self, step: int, latents: Tensor) -> Tensor:
        """Latents [B, c, h, w] after a step, blended where the problem's time has come."""
        outside = (1 - self.mask) * (self.start <= step).view(-1, 1, 1, 1)
        return latents + outside * (self.way[step] - latents)

    def select(self, rows: Tensor) -> "Blend":
        """The blend of some problems of the batch."""
        return Blend(self.way[:, rows], self.mask[rows], self.start[rows])


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
    pooled, null_pooled
        Pooled embeddings of both, [B, P], where the U-Net takes them (SDXL).
    injection
        Another prompt's cross-attention, taken over for the first part of the chain.
    blend
        Another way's latents, taken over outside of a mask.
    """

    text: Tensor
    null: Tensor
    text_delta: Tensor | None = None
    null_delta: Tensor | None = None
    offsets: Tensor | None = None
    pooled: Tensor | None = None
    null_pooled: Tensor | None = None
    injection: Injection | None = None
    blend: Blend | None = None

    def select(self, rows: Tensor) -> "Conditioning":
        """The conditioning of some problems of the batch."""
        return Conditioning(
            self.text[rows],
            self.null[rows],
            None if self.text_delta is None else self.text_delta[:, rows],
            None if self.null_delta is None else self.null_delta[:, rows],
            None if self.offsets is None else self.offsets[:, rows],
            None if self.pooled is None else self.pooled[rows],
            None if self.null_pooled is None else self.null_pooled[rows],
            None if self.injection is None else self.injection.select(rows),
            None if self.blend is None else self.blend.select(rows),
        )

    def with_text(self, text: Tensor, pooled: Tensor | None = None) -> "Conditioning":
        """The same with another prompt; the pooled embedding stays where none is given."""
        return replace(self, text=text, pooled=self.pooled if pooled is None else pooled)


def condition(sampler: Sampler, prompts: list[str]) -> Conditioning:
    """The conditioning of prompts, nothing added."""
    text, pooled = sampler.embed_prompts(prompts)
    null, null_pooled = sampler.embed_null()
    return Conditioning(
        text,
        null.expand(len(prompts), -1, -1),
        pooled=pooled,
        null_pooled=None if null_pooled is None else null_pooled.expand(len(prompts), -1),
    )


class Step(NamedTuple):
    """One step of the chain: the U-Net's time, and alpha bar before and after it."""

    time: float
    alpha_bar: float
    alpha_bar_after: float


def schedule(sampler: Sampler, steps: int) -> list[Step]:
    """The chain's steps from noise to image, as diffusers takes them.

    Raises
    ------
    UsageError
        If the sampler's schedule has fewer steps.
    """
    scheduler = sampler.scheduler
    trained = int(scheduler.config.num_train_timesteps)
    if steps <= trained:
        scheduler.set_timesteps(steps)
    # For some numbers of steps, rounding gives trailing times one too many, at -1.
    times = scheduler.timesteps.tolist()[:steps]
    if steps > trained or times[0] >= trained:
        raise UsageError(
            f"{steps} steps are too many for the sampler {sampler.name!r}, which was trained on "
            f"{trained}: lower guidance.steps"
        )
    if hasattr(scheduler, "sigmas"):
        sigmas = scheduler.sigmas.tolist()
        shares = [1 / (1 + sigma**2) for sigma in (*sigmas[:steps], sigmas[-1])]
        return [Step(*row) for row in zip(times, shares[:-1], shares[1:], strict=True)]
    stride = trained // steps
    alphas, last = scheduler.alphas_cumprod, scheduler.final_alpha_cumprod
    return [
        Step(time, float(alphas[time]), float(alphas[time - stride] if time >= stride else last))
        for time in times
    ]


def run_chain(
    sampler: Sampler,
    latents: Tensor,
    conditioning: Conditioning,
    *,
    steps: int,
    guidance_scale: float,
    keep_last: int = 1,
    held_steps: int | None = None,
    gradient_steps: int | None = None,
) -> list[Tensor]:
    """The last `keep_last` predictions of x0, [B, c, h, w] each; the last one is the result.

    latents [B, c, h, w] at the noisiest time; differentiable in them and in the conditioning.

    Parameters
    ----------
    guidance_scale
        1 and below: no guidance, as in diffusers.
    held_steps
        Steps whose activations are held at once for backward; None: about twice the square root of
        the steps. It changes memory and time (see the module), not the gradients.
    gradient_steps
        Differentiate the U-Net in this many last steps only; None: in all. What it predicts in
        the steps before counts as constant. Gradients of these steps' deltas are then zero, and
        that of `latents` is what reaches the first differentiated step, times a positive number.
    """
    times = schedule(sampler, steps)
    texts = _at_each_step(conditioning.text, conditioning.text_delta, steps)
    nulls = _at_each_step(conditioning.null, conditioning.null_delta, steps)
    pooled, null_pooled = conditioning.pooled, conditioning.null_pooled
    injection, blend = conditioning.injection, conditioning.blend
    constant = 0 if gradient_steps is None else max(steps - gradient_steps, 0)

    def walk(first: int, last: int, latents: Tensor) -> tuple[Tensor, ...]:
        """(latents after steps first to last - 1, the predictions among them that are kept)."""
        kept = []
        for index in range(first, last):
            step, text, null = times[index], texts[index], nulls[index]
            control = None if injection is None else injection.at(index)
            with torch.no_grad() if index < constant else nullcontext():
                predicted = _predict(
                    sampler, latents, text, null, step.time, guidance_scale, pooled, null_pooled,
                    control,
                )  # fmt: skip
            latents, x0 = _after(sampler, latents, predicted, step, guidance_scale)
            if conditioning.offsets is not None:
                latents = latents + conditioning.offsets[index]
            if blend is not None:
                latents = blend.after(index, latents)
            if index >= steps - keep_last:
                # After the last step the latents are x0 with its correction.
                kept.append(latents if index == steps - 1 else x0)
        return latents, *kept

    if not torch.is_grad_enabled():
        return list(walk(0, steps, latents)[1:])
    # Nothing is kept of a linear step, so these need no segments.
    latents, *predictions = walk(0, constant, latents)
    for first, last in segments(constant, steps, held_steps):
        if last == steps:
            # Backward begins here: computing it again would gain nothing.
            latents, *kept = walk(first, last, latents)
        else:
            latents, *kept = checkpoint(
                walk, first, last, latents, use_reentrant=False, preserve_rng_state=False
            )
        predictions += kept
    return predictions


def segments(first: int, last: int, held_steps: int | None = None) -> list[tuple[int, int]]:
    """(start, end) of each segment of the steps first to last - 1; the first may be shorter."""
    length = held_steps or math.ceil(2 * math.sqrt(last - first))
    ends = list(range(last, first, -length))[::-1]
    return [(max(end - length, first), end) for end in ends]


def chain_step(
    sampler: Sampler,
    latents: Tensor,
    text: Tensor,
    null: Tensor,
    time: float,
    alpha_bar: float,
    alpha_bar_after: float,
    guidance_scale: float,
    pooled: Tensor | None = None,
    null_pooled: Tensor | None = None,
    control: Recorder | Injected | None = None,
) -> tuple[Tensor, Tensor]:
    """One guided step: (latents after it, x0 as predicted before it)."""
    predicted = _predict(
        sampler, latents, text, null, time, guidance_scale, pooled, null_pooled, control
    )
    step = Step(time, alpha_bar, alpha_bar_after)
    return _after(sampler, latents, predicted, step, guidance_scale)


def _predict(
    sampler: Sampler,
    latents: Tensor,
    text: Tensor,
    null: Tensor,
    time: float,
    guidance_scale: float,
    pooled: Tensor | None,
    null_pooled: Tensor | None,
    control: Recorder | Injected | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The U-Net's predictions with the prompt and, where there is guidance, without."""
    if guidance_scale <= 1:
        return sampler.predict(latents, time, text, pooled, control), None
    if pooled is not None and null_pooled is not None:
        pooled = torch.cat([pooled, null_pooled])
    both = sampler.predict(
        torch.cat([latents, latents]), time, torch.cat([text, null]), pooled, control
    )
    with_text, without = both.chunk(2)
    return with_text, without


def _after(
    sampler: Sampler,
    latents: Tensor,
    predicted: tuple[Tensor, Tensor | None],
    step: Step,
    guidance_scale: float,
) -> tuple[Tensor, Tensor]:
    out: tuple[Tensor, Tensor] = guided_ddim_step(
        latents,
        *predicted,
        guidance_scale=guidance_scale,
        alpha_bar=step.alpha_bar,
        alpha_bar_prev=step.alpha_bar_after,
        prediction=sampler.prediction,
    )
    return out


def _at_each_step(embedding: Tensor, delta: Tensor | None, steps: int) -> Sequence[Tensor]:
    # Taken apart once: backward of an index writes all of delta's gradient, for every step.
    return [embedding] * steps if delta is None else [embedding + row for row in delta.unbind(0)]


@torch.no_grad()
def watch(
    sampler: Sampler,
    latents: Tensor,
    conditioning: Conditioning,
    *,
    steps: int,
    guidance_scale: float,
    attention_steps: int,
) -> tuple[Tensor, list[dict[int, Tensor]]]:
    """Go through a chain and look at it: (way, cross-attention).

    way [T, B, c, h, w] are the latents after each step; cross-attention of the prompts, without the
    null text, is recorded in the first `attention_steps` steps, as `Injection.maps`.
    """
    texts = _at_each_step(conditioning.text, conditioning.text_delta, steps)
    nulls = _at_each_step(conditioning.null, conditioning.null_delta, steps)
    way, maps = [], []
    for index, step in enumerate(schedule(sampler, steps)):
        recorder = Recorder(len(latents)) if index < attention_steps else None
        latents, _ = chain_step(
            sampler, latents, texts[index], nulls[index], *step, guidance_scale,
            conditioning.pooled, conditioning.null_pooled, recorder,
        )  # fmt: skip
        if conditioning.offsets is not None:
            latents = latents + conditioning.offsets[index]
        way.append(latents)
        if recorder is not None:
            maps.append(recorder.maps)
    return torch.stack(way), maps


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
