"""Cross-attention: recorded as the layers compute it, put in place, nothing else changed."""

from dataclasses import replace

import pytest
import torch

from whylens.diffusion import load_sampler
from whylens.diffusion.attention import Injection, Recorder, align, word_map
from whylens.diffusion.chain import condition, run_chain, schedule, watch

BEFORE, AFTER = ["a photo of a boat on grass"], ["a photo of a fish on grass"]


@pytest.fixture
def sampler(pipeline):
    return pipeline.sampler


@pytest.fixture
def noise(sampler):
    return sampler.initial_latents([3])


def test_what_is_recorded_is_the_softmax_of_queries_and_keys(sampler, noise):
    layers = [m for name, m in sampler.unet.named_modules() if name.endswith("attn2")]
    seen = []
    handles = [
        layer.register_forward_hook(
            lambda module, args, kwargs, out: seen.append(
                (module, args[0], kwargs["encoder_hidden_states"], out)
            ),
            with_kwargs=True,
        )
        for layer in layers
    ]
    recorder = Recorder(1)
    text, pooled = sampler.embed_prompts(BEFORE)
    time = schedule(sampler, 3)[0].time
    asked = sampler.predict(noise, time, text, pooled, recorder)
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(asked, sampler.predict(noise, time, text, pooled), rtol=0, atol=1e-5)
    assert len(recorder.maps) == len(layers) > 1
    numbered = {id(module): module.processor.layer for module, *_ in seen}
    for module, states, words, _ in seen:
        heads = module.heads
        query = module.to_q(states)[0].unflatten(-1, (heads, -1)).transpose(0, 1)
        key = module.to_k(words)[0].unflatten(-1, (heads, -1)).transpose(0, 1)
        scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
        maps = recorder.maps[numbered[id(module)]][0]
        torch.testing.assert_close(maps, scores.softmax(-1), rtol=0, atol=1e-6)


def test_watching_goes_where_the_chain_goes(sampler, noise):
    conditioning = condition(sampler, BEFORE)
    way, maps = watch(sampler, noise, conditioning, steps=4, guidance_scale=3.0, attention_steps=2)
    with torch.no_grad():
        (end,) = run_chain(sampler, noise, conditioning, steps=4, guidance_scale=3.0)
    assert (len(way), len(maps)) == (4, 2)
    torch.testing.assert_close(way[-1], end, rtol=1e-4, atol=1e-4)


def injected(sampler, noise, until, tokens=None):
    source = condition(sampler, BEFORE)
    _, maps = watch(sampler, noise, source, steps=4, guidance_scale=3.0, attention_steps=4)
    index, weights = tokens or align(sampler.tokens(BEFORE)[0], sampler.tokens(AFTER)[0])
    return Injection(maps, torch.tensor([index]), torch.tensor([weights]), torch.tensor([until]))


def chain(sampler, noise, conditioning):
    with torch.no_grad():
        (end,) = run_chain(sampler, noise, conditioning, steps=4, guidance_scale=3.0)
    return end


def test_a_prompt_that_takes_over_its_own_attention_stays_what_it_is(sampler, noise):
    length = len(sampler.tokens(BEFORE)[0])
    own = injected(sampler, noise, 4, (list(range(length)), [1.0] * length))
    source = condition(sampler, BEFORE)
    torch.testing.assert_close(
        chain(sampler, noise, replace(source, injection=own)),
        chain(sampler, noise, source),
        rtol=1e-4,
        atol=1e-4,
    )


def test_attention_is_taken_over_in_as_many_steps_as_are_asked_for(sampler, noise):
    edit = condition(sampler, AFTER)
    plain = chain(sampler, noise, edit)
    ends = [
        chain(sampler, noise, replace(edit, injection=injected(sampler, noise, until)))
        for until in (0, 2, 4)
    ]
    torch.testing.assert_close(ends[0], plain, rtol=0, atol=0)
    assert (ends[1] - plain).abs().max() > 1e-4
    assert (ends[2] - ends[1]).abs().max() > 1e-4


@pytest.mark.slow
def test_attention_of_the_image_brings_another_prompt_nearer_to_it():
    sampler = load_sampler("planted")
    noise = sampler.initial_latents([3])
    image = chain(sampler, noise, condition(sampler, BEFORE))
    edit = condition(sampler, AFTER)
    gaps = [
        (chain(sampler, noise, replace(edit, injection=injected(sampler, noise, until))) - image)
        .square()
        .mean()
        for until in (0, 4)
    ]
    assert gaps[1] < 0.9 * gaps[0]


def test_gradients_are_the_same_however_the_chain_is_cut(sampler, noise):
    edit = replace(condition(sampler, AFTER), injection=injected(sampler, noise, 2))
    found = []
    for held in (1, 4):
        start = noise.clone().requires_grad_(True)
        (end,) = run_chain(sampler, start, edit, steps=4, guidance_scale=3.0, held_steps=held)
        found.append(torch.autograd.grad(end.square().sum(), start)[0])
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_tokens_behind_a_longer_word_move():
    index, weights = align([0, 5, 7, 8, 1, 1], [0, 5, 9, 9, 8, 1])
    assert weights == [1.0, 1.0, 0.0, 0.0, 1.0, 1.0]
    assert [index[place] for place in (0, 1, 4, 5)] == [0, 1, 3, 4]


def test_a_words_map_is_the_scaled_mean_of_its_tokens_at_the_nearest_size():
    fine = torch.rand(1, 2, 256, 4, generator=torch.Generator().manual_seed(0))
    found = word_map([{0: fine, 1: torch.rand(1, 2, 16, 4)}], [[1, 2]])[0]
    mean = fine[0].mean(0)[:, 1:3].mean(1).view(16, 16)
    expected = (mean - mean.min()) / (mean.max() - mean.min())
    torch.testing.assert_close(found, expected)
