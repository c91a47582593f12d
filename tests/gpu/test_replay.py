"""Recorded calls on a GPU: what plain calls give, in a chain that is held and computed again."""

import pytest
import torch

from whylens.diffusion import load_sampler
from whylens.diffusion.chain import denoise, result
from whylens.diffusion.conditioning import condition
from whylens.replay import Replayed


def chained(sampler, seeds):
    conditioning = condition(sampler, ["a photo of a star"] * len(seeds))
    latents = sampler.initial_latents(seeds).requires_grad_()
    end = result(denoise(sampler, latents, conditioning, steps=6, guidance_scale=3.0, segment=3))
    (gradient,) = torch.autograd.grad(end.square().sum(), latents)
    return end.detach(), gradient


def test_a_chain_of_recorded_calls_is_one_of_plain_calls():
    plain, recorded = (
        load_sampler(f"planted?dtype=float32&graphs={choice}", "cuda") for choice in ("off", "on")
    )
    recorded.replayed = Replayed(recorded.call_denoiser, after=6)
    for seeds in ([1, 2], [3, 4], [5, 6], [7], [8]):
        for found, wanted in zip(chained(recorded, seeds), chained(plain, seeds), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
    assert not recorded.replayed._full


@pytest.mark.two_gpus
def test_calls_are_recorded_on_a_second_gpu_after_the_first():
    for device in ("cuda:0", "cuda:1"):
        layer = torch.nn.Linear(8, 8).to(device).requires_grad_(False)
        recorded = Replayed(layer, after=1)
        for _ in range(3):
            x = torch.randn(4, 8, device=device).requires_grad_()
            recorded.announce()
            out, wanted = recorded(x), layer(x)
            torch.testing.assert_close(out, wanted)
            found, true = (torch.autograd.grad(one.square().sum(), x)[0] for one in (out, wanted))
            torch.testing.assert_close(found, true)
        assert recorded._free
        assert not recorded._full
