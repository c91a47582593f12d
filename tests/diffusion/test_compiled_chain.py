import pytest
import torch

from whylens.compiled import CompiledBlocks
from whylens.diffusion import condition, denoise, load_sampler, result
from whylens.diffusion.attention import AttentionMaps
from whylens.diffusion.frozen import blocks


@pytest.mark.slow
def test_a_chain_is_the_same_and_recorders_of_attention_see_it(one_of):
    plain = one_of("v_prediction").sampler
    sampler, runs = load_sampler(f"{one_of('v_prediction').folder}?kernels=on"), []

    def counting(graph, inputs):
        def run(*given):
            runs.append(graph)
            return graph.forward(*given)

        return run

    sampler.compiled.append(CompiledBlocks(blocks(sampler.denoiser), backend=counting))
    found = []
    for one in (sampler, plain):
        latents = one.initial_latents([0, 1]).requires_grad_()
        conditioning = condition(one, ["a boat", "a moon"])
        maps = AttentionMaps(injected_steps=1, word_steps=1)
        options = {"steps": 5, "guidance_scale": 3.0}
        with torch.no_grad():
            result(denoise(one, latents, conditioning, attention=maps, **options))
        end = result(denoise(one, latents, conditioning, segment=2, **options))
        found.append((end, maps.steps[0][0], *torch.autograd.grad(end.square().sum(), latents)))
    for value, true in zip(*found, strict=True):
        torch.testing.assert_close(
            value, true, rtol=1e-3, atol=1e-3 * float(true.detach().abs().max())
        )
    # All five steps, and all but the last segment of two once more; each a graph of each block.
    assert len(runs) == 8 * len(blocks(sampler.denoiser))
