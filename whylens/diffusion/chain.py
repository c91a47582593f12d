"""The chain: a deterministic trajectory from noise to latents, differentiable end to end.

Song, Meng and Ermon 2021, equation 12 with sigma = 0, for DDIM and Euler schedules and rectified
flows alike (see `Sampler`); guidance after Ho and Salimans 2022.

A latent consistency model (Luo et al. 2023, algorithm 3) predicts the end of the trajectory at
every step, f(z) = c_skip z + c_out x0, and takes noise on again: z' = sqrt(a') f(z) + sqrt(1 - a')
noise. What is added to the latents after a step is the conditioning's: `fresh_noise` makes such
offsets from the problem's seed, an inversion other ones. So its chain is deterministic, too, and
without offsets it takes on no noise.

What backward needs of a step, the U-Net's activations, is far larger than latents. The chain is cut
into checkpoint segments of `segment` steps: forward keeps the latents at their starts and all of
the last segment, backward computes each other segment again. With s steps a segment of T, F the
time of a U-Net call and B of its backward, peak memory and time are

    s = T              T steps                   T (F + B)                  plain autograd
    s = 2 sqrt(T)      2 sqrt(T) steps           T (F + B) + (T - s) F      the default
    s = 1              1 step and T latents      T (F + B) + (T - 1) F      least memory

all with the same, exact gradients. B is about F, since parameters are frozen: no s takes much more
than 1.5 times as long as plain autograd, the default 1.3 times at T = 20 and 1.35 times at T = 40
(tests/benchmarks/memory.py; plain autograd's memory is 1.9 and 2.9 times the default's there).
`gradient_steps` = k holds at most k steps whatever T is, and takes T F + k B and what of the k
steps is recomputed. Its cost is a bias (see `denoise`): on the planted sampler, T = 10, six
images towards a target class, the loss fell from 18.1 in eight optimisation steps to 6.2 with exact
gradients, 5.7 with k = 6, 6.4 with k = 4, 8.7 with k = 2, in 17, 12, 10 and 9 seconds.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from whylens.diffusion.attention import AttentionMaps, Injected, Recorder
from whylens.diffusion.conditioning import Conditioning, Embeddings, condition
from whylens.diffusion.sampler import Sampler
from whylens.diffusion.schedules import Step, fresh_noise, schedule
from whylens.kernels import guided_ddim_step


class ChainState(NamedTuple):
    """A chain after a step: its latents, and x0 as predicted before the step, [B, c, h, w] each."""

    latents: Tensor
    x0: Tensor


def chain_step(
    sampler: Sampler,
    latents: Tensor,
    step: Step,
    embeddings: Embeddings,
    guidance_scale: float,
    *,
    control: Recorder | Injected | None = None,
    constant: bool = False,
) -> ChainState:
    """One guided step: the latents [B, c, h, w] after it, and x0 as predicted before it.

    `guidance_scale` 1 and below: no guidance, as in diffusers; a U-Net that takes the scale as an
    input is asked once. Of a consistency model x0 is its prediction f. `constant` takes what the
    U-Net predicts for a constant: the step is then linear in the latents, and backward needs
    nothing.
    """
    text, null, pooled = embeddings.text, embeddings.null, embeddings.pooled
    seen = sampler.seen(latents, step.alpha_bar)
    guided = sampler.asks_null(guidance_scale)
    with torch.no_grad() if constant else nullcontext():
        if guided:
            if pooled is not None and embeddings.null_pooled is not None:
                pooled = torch.cat([pooled, embeddings.null_pooled])
            both = sampler.predict(
                torch.cat([seen, seen]), step.time, torch.cat([text, null]), pooled, control
            )
            with_text, without = both.chunk(2)
        else:
            with_text = sampler.predict(
                seen, step.time, text, pooled, control, guidance_scale=guidance_scale
            )
            without = None
    state = ChainState(
        *guided_ddim_step(
            latents,
            with_text,
            without,
            guidance_scale=guidance_scale,
            alpha_bar=step.alpha_bar,
            alpha_bar_prev=step.alpha_bar_after,
            prediction=sampler.prediction,
        )
    )
    if step.consistency is None:
        return state
    skip, out = step.consistency
    mixed = skip * latents + out * state.x0
    return ChainState(math.sqrt(step.alpha_bar_after) * mixed, mixed)


def denoise(
    sampler: Sampler,
    latents: Tensor,
    conditioning: Conditioning,
    *,
    steps: int,
    guidance_scale: float,
    segment: int | None = None,
    gradient_steps: int | None = None,
    attention: AttentionMaps | None = None,
) -> Iterator[ChainState]:
    """The state after each step, from latents [B, c, h, w] at the noisiest time on.

    The last state's latents are the chain's result. Differentiable in the latents and in the
    conditioning.

    Parameters
    ----------
    guidance_scale
        1 and below: no guidance, as in diffusers.
    segment
        Steps whose activations are held at once for backward; None: about twice the square root of
        the steps. It changes memory and time (see the module), not the gradients.
    gradient_steps
        Differentiate the U-Net in this many last steps only; None: in all. What it predicts in
        the steps before counts as constant. Gradients of these steps' deltas are then zero, and
        that of `latents` is what reaches the first differentiated step, times a positive number.
    attention
        Records the prompts' cross-attention, of chains that take over none.
    """
    times = schedule(sampler, steps)
    embeddings = conditioning.at_each_step(steps)
    injection = conditioning.injection
    if conditioning.blend is not None:
        latents = conditioning.blend.after(-1, latents)
    constant = 0 if gradient_steps is None else max(steps - gradient_steps, 0)

    def walk(first: int, last: int, latents: Tensor) -> list[ChainState]:
        """The states after steps first to last - 1."""
        states = []
        for index in range(first, last):
            control: Recorder | Injected | None = None
            if attention is not None:
                control = attention.recorder(index, len(latents))
            elif injection is not None:
                control = injection.at(index)
            latents, x0 = chain_step(
                sampler, latents, times[index], embeddings[index], guidance_scale,
                control=control, constant=index < constant,
            )  # fmt: skip
            latents = conditioning.corrected(index, latents)
            states.append(ChainState(latents, x0))
        return states

    if not torch.is_grad_enabled():
        for index in range(steps):
            (state,) = walk(index, index + 1, latents)
            latents = state.latents
            yield state
        return
    sampler.announce(steps - constant)
    # Nothing is kept of a linear step, so these need no segments.
    for first, last in [(0, constant), *segments(constant, steps, segment)]:
        if last in (steps, constant):
            # Backward begins at the end: computing it again would gain nothing.
            states = walk(first, last, latents)
        else:
            states = checkpoint(
                walk, first, last, latents, use_reentrant=False, preserve_rng_state=False
            )
        if states:
            latents = states[-1].latents
        yield from states


def result(states: Iterable[ChainState]) -> Tensor:
    """The latents [B, c, h, w] that a chain ends at."""
    return last_predictions(states, 1)[0]


def last_predictions(states: Iterable[ChainState], count: int) -> list[Tensor]:
    """The last `count` predictions of x0, [B, c, h, w] each, the chain's result in the last place.

    After the last step the latents are x0 with its correction.
    """
    *before, end = deque(states, maxlen=count)
    return [*(state.x0 for state in before), end.latents]


def segments(first: int, last: int, segment: int | None = None) -> list[tuple[int, int]]:
    """(start, end) of each segment of the steps first to last - 1; the first may be shorter."""
    length = segment or rooted(last - first)
    ends = list(range(last, first, -length))[::-1]
    return [(max(end - length, first), end) for end in ends]


def rooted(steps: int) -> int:
    """About twice the square root of the steps: the length of a segment unless one is given."""
    return math.ceil(2 * math.sqrt(steps))


@torch.no_grad()
def watch(
    sampler: Sampler,
    latents: Tensor,
    conditioning: Conditioning,
    attention: AttentionMaps | None = None,
    *,
    steps: int,
    guidance_scale: float,
) -> Tensor:
    """A chain's trajectory [B, T + 1, c, h, w]: latents before each step and after the last.

    `attention` records the prompts' cross-attention on the way.
    """
    states = denoise(
        sampler, latents, conditioning, steps=steps, guidance_scale=guidance_scale,
        attention=attention,
    )  # fmt: skip
    return torch.stack([latents, *(state.latents for state in states)], 1)


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
    conditioning = replace(condition(sampler, prompts), offsets=fresh_noise(sampler, seeds, steps))
    states = denoise(
        sampler, sampler.initial_latents(seeds), conditioning, steps=steps,
        guidance_scale=guidance_scale,
    )  # fmt: skip
    return sampler.decode(result(states))
