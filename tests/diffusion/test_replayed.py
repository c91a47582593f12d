"""A chain through recorded calls of the U-Net has the results and gradients of plain calls."""

import pytest
import torch

from tests.test_replay import Simulated
from whylens.diffusion import load_sampler
from whylens.diffusion.chain import denoise, result
from whylens.diffusion.conditioning import condition
from whylens.errors import UsageError
from whylens.replay import Replayed


def test_latents_and_gradients_are_those_of_plain_calls():
    sampler = load_sampler("random:tiny?dtype=float64")
    prompts, seeds = ["a photo of a star", "a photo of snow"], [1, 2]
    start, conditioning = sampler.initial_latents(seeds), condition(sampler, prompts)

    def chained():
        latents = start.clone().requires_grad_()
        states = denoise(sampler, latents, conditioning, steps=5, guidance_scale=3.0, segment=2)
        end = result(states)
        (gradient,) = torch.autograd.grad(end.square().sum(), latents)
        return end.detach(), gradient

    plain = chained()
    sampler.replayed, before = Replayed(sampler.call_denoiser, Simulated, after=7), Simulated.made
    for _ in range(4):
        for found, wanted in zip(chained(), plain, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    # As many as a segment has steps.
    assert Simulated.made - before == 2


def test_a_cpu_has_none_and_is_told_so():
    assert load_sampler("random:tiny").replayed is None
    with pytest.raises(UsageError, match="graphs=on needs a GPU"):
        load_sampler("random:tiny?graphs=on")
