"""Cross-attention: recorded as the layers compute it, put in place, nothing else changed."""

from dataclasses import replace

import pytest
import torch

from whylens.diffusion import load_sampler
from whylens.diffusion.attention import AttentionMaps, Injection, Recorder, align
from whylens.diffusion.chain import denoise, result, watch
from whylens.diffusion.conditioning import condition
from whylens.diffusion.schedules import schedule

BEFORE, AFTER = ["a photo of a boat on grass"], ["a photo of a fish on grass"]


@pytest.fixture
def sampler(pipeline):
    return pipeline.sampler


@pytest.fixture
def noise(sampler):
    return sampler.initial_latents([3])


def test_what_is_recorded_is_the_softmax_of_queries_and_keys(sampler, noise):
    layers = [m for name, m in sampler.denoiser.named_modules() if name.endswith("attn2")]
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
    attention = AttentionMaps(injected_steps=2, word_steps=0)
    trajectory = watch(sampler, noise, conditioning, attention, steps=4, guidance_scale=3.0)
    end = chain(sampler, noise, conditioning)
    assert (trajectory.shape, len(attention.steps)) == ((1, 5, *noise.shape[1:]), 2)
    torch.testing.assert_close(trajectory[:, 0], noise, rtol=0, atol=0)
    torch.testing.assert_close(trajectory[:, -1], end, rtol=1e-4, atol=1e-4)


def test_maps_are_kept_of_the_steps_and_layers_that_are_used(sampler, noise):
    source = condition(sampler, BEFORE)

    def layers(injected_steps, word_steps):
        attention = AttentionMaps(injected_steps=injected_steps, word_steps=word_steps)
        watch(sampler, noise, source, attention, steps=4, guidance_scale=3.0)
        return [set(maps) for maps in attention.steps]

    (everything, *_) = layers(1, 0)
    sizes = {layer: maps.shape[2] for layer, maps in recorded(sampler, noise, source).items()}
    words = {layer for layer in everything if sizes[layer] == max(sizes.values())}
    assert words <= everything
    assert layers(0, 0) == []
    assert layers(2, 0) == [everything] * 2
    assert layers(2, 3) == [everything, everything, words]
    assert layers(0, 3) == [words] * 3


def recorded(sampler, noise, conditioning):
    """All layers' maps at the first step."""
    recorder = Recorder(1)
    time = schedule(sampler, 4)[0].time
    sampler.predict(noise, time, conditioning.text, conditioning.pooled, recorder)
    return recorder.maps


def injected(sampler, noise, until, tokens=None):
    source = condition(sampler, BEFORE)
    attention = AttentionMaps(injected_steps=4, word_steps=0)
    watch(sampler, noise, source, attention, steps=4, guidance_scale=3.0)
    index, weights = tokens or align(sampler.tokens(BEFORE)[0], sampler.tokens(AFTER)[0])
    return Injection(
        attention, torch.tensor([0]), torch.tensor([index]), torch.tensor([weights]),
        torch.tensor([until]),
    )  # fmt: skip


def chain(sampler, noise, conditioning):
    with torch.no_grad():
        return result(denoise(sampler, noise, conditioning, steps=4, guidance_scale=3.0))


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
        end = result(denoise(sampler, start, edit, steps=4, guidance_scale=3.0, segment=held))
        found.append(torch.autograd.grad(end.square().sum(), start)[0])
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_tokens_behind_a_longer_word_move():
    index, weights = align([0, 5, 7, 8, 1, 1], [0, 5, 9, 9, 8, 1])
    assert weights == [1.0, 1.0, 0.0, 0.0, 1.0, 1.0]
    assert [index[place] for place in (0, 1, 4, 5)] == [0, 1, 3, 4]


def test_a_swapped_word_may_look_where_the_word_before_it_looked():
    before, after = [0, 5, 7, 8, 1, 1], [0, 5, 9, 9, 8, 1]
    assert align(before, after, "source") == ([0, 1, 2, 2, 3, 4], [1.0] * 6)
    # A word of one token for one of two; and words that are added keep their own.
    assert align([0, 6, 7, 8, 1], [0, 9, 8, 1, 1], "source") == ([0, 1, 3, 4, 4], [1, 1, 1, 1, 0])
    # Where both are as long, every token has the place of the one that it stands for.
    index, weights = align([0, 5, 7, 1], [0, 5, 9, 1], "source")
    assert (index, weights) == ([0, 1, 2, 3], [1.0] * 4)
    assert align([0, 5, 7, 1], [0, 5, 9, 1])[1] == [1.0, 1.0, 0.0, 1.0]


def test_a_words_map_is_the_scaled_mean_of_its_tokens_at_the_nearest_size():
    fine = torch.rand(1, 2, 256, 4, generator=torch.Generator().manual_seed(0))
    attention = AttentionMaps(injected_steps=0, word_steps=1)
    attention.recorder(0, rows=1).maps.update({0: fine, 1: torch.rand(1, 2, 16, 4)})
    found = attention.word_maps([[1, 2]])[0]
    mean = fine[0].mean(0)[:, 1:3].mean(1).view(16, 16)
    expected = (mean - mean.min()) / (mean.max() - mean.min())
    torch.testing.assert_close(found, expected)
