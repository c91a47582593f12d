"""Rectified flows: diffusers' own images, gradients by finite differences, and the way back."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from whylens.compiled import CompiledBlocks
from whylens.diffusion import (
    Sampler,
    check_sampler,
    condition,
    denoise,
    invert_images,
    load_sampler,
    result,
    sample,
)
from whylens.diffusion.attention import AttentionMaps
from whylens.diffusion.chain import last_predictions, watch
from whylens.diffusion.frozen import blocks
from whylens.diffusion.inversion import ddim_trajectory, noised_trajectory
from whylens.errors import UsageError
from whylens.guidance.masks import prediction_gap

PROMPTS = ["a photo of a boat on grass", "a photo of a moon"]


def own_images(pipeline, seeds=(3, 4), **options):
    """What diffusers' pipeline makes of the prompts."""
    return pipeline(
        PROMPTS,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type="pt",
        **options,
    ).images


@pytest.mark.parametrize("family", ["flow", "flow_clip"])
@pytest.mark.parametrize(("steps", "guidance_scale"), [(1, 0.0), (4, 1.0), (7, 4.5)])
def test_a_plain_sample_is_what_diffusers_makes(one_of, family, steps, guidance_scale):
    tiny = one_of(family)
    images = sample(tiny.sampler, PROMPTS, [3, 4], steps=steps, guidance_scale=guidance_scale)
    expected = own_images(tiny.reference, num_inference_steps=steps, guidance_scale=guidance_scale)
    assert images.shape == (2, 3, 16, 16)
    assert images.std() > 0.05
    torch.testing.assert_close(images.clone(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"shift": 1.0},
        {"use_dynamic_shifting": True},
        {"use_dynamic_shifting": True, "time_shift_type": "linear"},
        {"shift_terminal": 0.1},
        {"use_karras_sigmas": True},
    ],
    ids=str,
)
def test_the_schedule_s_own_settings_are_honoured(one_of, changes):
    reference = one_of("flow").reference
    scheduler = reference.scheduler
    try:
        reference.scheduler = type(scheduler).from_config(scheduler.config, **changes)
        images = sample(Sampler("changed", reference), PROMPTS, [3, 4], steps=5)
        expected = own_images(reference, num_inference_steps=5, guidance_scale=3.0)
    finally:
        reference.scheduler = scheduler
    torch.testing.assert_close(images.clone(), expected, rtol=0, atol=1e-5)
    if "use_dynamic_shifting" in changes:
        plain = sample(one_of("flow").sampler, PROMPTS, [3, 4], steps=5)
        assert (images - plain).abs().max() > 0.01


def test_guidance_leads_away_from_a_negative_prompt(one_of):
    tiny = one_of("flow")
    sampler = load_sampler(f"{tiny.folder}?negative_prompt=a moon on grass")
    images = sample(sampler, PROMPTS, [3, 4], steps=4)
    expected = own_images(
        tiny.reference, negative_prompt=["a moon on grass"] * 2, num_inference_steps=4,
        guidance_scale=3.0,
    )  # fmt: skip
    torch.testing.assert_close(images.clone(), expected, rtol=0, atol=1e-5)


def test_three_encoders_say_what_diffusers_makes_of_them(one_of):
    tiny = one_of("flow")
    expected, null, pooled, null_pooled = tiny.reference.encode_prompt(
        PROMPTS, None, None, do_classifier_free_guidance=True
    )
    found = condition(tiny.sampler, PROMPTS)
    # CLIP's 16 places, then T5's 256.
    assert found.text.shape == (2, 16 + 256, 32)
    torch.testing.assert_close(found.text, expected)
    torch.testing.assert_close(found.null, null)
    torch.testing.assert_close(found.pooled, pooled)
    torch.testing.assert_close(found.null_pooled, null_pooled)


def test_the_third_encoder_may_be_left_out(one_of):
    tiny = one_of("flow")
    assert condition(tiny.sampler, PROMPTS).text[:, 16:].any()
    sampler = load_sampler(f"{tiny.folder}?t5=off")
    without = condition(sampler, PROMPTS)
    assert not without.text[:, 16:].any()
    torch.testing.assert_close(without.text[:, :16], condition(tiny.sampler, PROMPTS).text[:, :16])
    with pytest.raises(UsageError, match="t5 is on or off, not 'no'"):
        load_sampler(f"{tiny.folder}?t5=no")


def test_latents_are_those_that_its_autoencoder_s_factors_make(one_of):
    sampler, vae = one_of("flow").sampler, one_of("flow").reference.vae
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    latents = sampler.encode(images)
    with torch.no_grad():
        mean = vae.encode(images * 2 - 1).latent_dist.mean
        decoded = vae.decode(mean).sample
    torch.testing.assert_close(latents, (mean - 0.06) * 5.0)
    expected = (decoded / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(sampler.decode(latents), expected, rtol=0, atol=1e-5)


def problem(sampler, steps):
    """Latents and a conditioning with deltas, all differentiable."""
    generator = torch.Generator().manual_seed(0)
    plain = condition(sampler, PROMPTS)

    def drawn():
        shape = (2, steps, *plain.text.shape[1:])
        values = 0.3 * torch.randn(shape, generator=generator, dtype=torch.float64)
        return values.requires_grad_()

    latents = sampler.initial_latents([5, 6]).requires_grad_()
    return {"latents": latents, "text_delta": drawn(), "null_delta": drawn()}, plain


def loss_of(sampler, values, plain, weights, **options):
    deltas = {name: value for name, value in values.items() if name != "latents"}
    states = denoise(
        sampler, values["latents"], replace(plain, **deltas), guidance_scale=3.0, **options
    )
    return (torch.stack(last_predictions(states, 2)) * weights).sum()


def test_gradients_through_the_chain_are_the_finite_differences(one_of):
    sampler, steps = one_of("flow").double, 3
    variables, plain = problem(sampler, steps)
    generator = torch.Generator().manual_seed(9)

    def drawn(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    weights = drawn(2, *variables["latents"].shape)
    options = {"steps": steps, "segment": 1}
    gradients = torch.autograd.grad(
        loss_of(sampler, variables, plain, weights, **options), list(variables.values())
    )
    for (name, value), gradient in zip(variables.items(), gradients, strict=True):
        assert gradient.abs().max() > 0
        way, h = drawn(*value.shape), 1e-5
        with torch.no_grad():
            ahead, behind = (
                loss_of(
                    sampler, {**variables, name: value + sign * h * way}, plain, weights, **options
                )
                for sign in (1, -1)
            )
        slope = float((gradient * way).sum())
        assert slope == pytest.approx(float(ahead - behind) / (2 * h), rel=1e-5), name


def flow_backwards(sampler, latents, conditioning, steps):
    """Euler's method on the reversed flow, in the flow's own latents, from the image's."""
    scheduler = sampler.scheduler
    scheduler.set_timesteps(steps)
    sigmas, times = scheduler.sigmas.double(), scheduler.timesteps
    trail = [latents]
    for index in reversed(range(steps)):
        with torch.no_grad():
            velocity = sampler.denoiser(
                trail[-1], conditioning.text, conditioning.pooled, times[index].expand(len(latents))
            ).sample
        trail.append(trail[-1] + (sigmas[index] - sigmas[index + 1]) * velocity)
    return torch.stack(trail[::-1], 1)


def test_inversion_goes_the_flow_s_way_backwards(one_of):
    sampler, steps = one_of("flow").double, 5
    latents, own = 0.5 * sampler.initial_latents([1, 2]), condition(sampler, PROMPTS)
    expected = flow_backwards(sampler, latents, own, steps)
    found = ddim_trajectory(sampler, latents, own, steps=steps)
    sigmas = sampler.scheduler.sigmas.double().view(1, -1, 1, 1, 1)
    # Ours have unit variance where the flow's have (1 - sigma)^2 + sigma^2.
    scale = ((1 - sigmas) ** 2 + sigmas**2).sqrt()
    torch.testing.assert_close(found * scale, expected, rtol=1e-9, atol=1e-9)
    assert (expected[:, 0] - latents).abs().max() > 0.1


@pytest.mark.parametrize("kind", ["direct", "noised", "null_text"])
def test_an_inverted_image_comes_back(one_of, kind):
    sampler, options = one_of("flow").sampler, {"steps": 4, "guidance_scale": 3.0}
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = invert_images(sampler, images, PROMPTS, kind=kind, **options)
    conditioning = found.onto(condition(sampler, PROMPTS))
    with torch.no_grad():
        back = result(denoise(sampler, found.noise, conditioning, **options))
        decoded = sampler.decode(back)
    errors = (decoded - images).square().mean((1, 2, 3))
    torch.testing.assert_close(found.psnr, -10 * errors.log10(), rtol=0, atol=0.01)
    # It is what an inversion adds to the prompt that leads there.
    with torch.no_grad():
        plain = result(denoise(sampler, found.noise, condition(sampler, PROMPTS), **options))
    gap, without = ((end - found.latents).square().mean() for end in (back, plain))
    assert gap < 0.9 * without
    if kind != "null_text":
        torch.testing.assert_close(back, found.latents, rtol=0, atol=1e-4)


def test_a_noised_trajectory_is_the_straight_line_to_the_noise(one_of):
    sampler = one_of("flow").double
    latents = sampler.initial_latents([1])
    found = noised_trajectory(sampler, latents, condition(sampler, PROMPTS[:1]), steps=3)[0]
    sigmas = sampler.scheduler.sigmas.double().tolist()
    for own, sigma in zip(found, sigmas, strict=True):
        scale = ((1 - sigma) ** 2 + sigma**2) ** 0.5
        torch.testing.assert_close(own * scale, (1 - sigma) * latents[0] + sigma * found[0])


def test_where_predictions_differ_is_asked_at_the_flow_s_own_latents(one_of):
    sampler, steps = one_of("flow").double, 3
    latents, own = sampler.initial_latents([1, 2]), condition(sampler, PROMPTS)
    other = condition(sampler, PROMPTS[::-1])
    trajectory = watch(sampler, latents, own, steps=steps, guidance_scale=1.0)
    found = prediction_gap(sampler, trajectory, own, other)
    sigmas, times = sampler.scheduler.sigmas.double(), sampler.scheduler.timesteps
    total = torch.zeros_like(found)
    for index in (1, 2):
        scale = ((1 - sigmas[index]) ** 2 + sigmas[index] ** 2).sqrt()
        with torch.no_grad():
            one, two = (
                sampler.denoiser(
                    scale * trajectory[:, index], c.text, c.pooled, times[index].expand(2)
                ).sample
                for c in (own, other)
            )
        square = (one - two).square().mean(1)
        total += square / square.mean((1, 2), keepdim=True)
    root = total.sqrt()
    expected = (root / root.flatten(1).quantile(0.95, dim=1).view(-1, 1, 1)).clamp(0, 1)
    torch.testing.assert_close(found, expected)


def test_half_precision_is_of_the_networks_only(one_of):
    whole = one_of("flow").sampler
    half = load_sampler(f"{whole.name}?dtype=bfloat16")
    assert (half.denoiser.dtype, half.dtype) == (torch.bfloat16, torch.float32)
    options = {"steps": 3, "guidance_scale": 3.0}
    difference = (
        sample(half, PROMPTS, [1, 2], **options) - sample(whole, PROMPTS, [1, 2], **options)
    ).abs()
    assert 0 < difference.max() < 0.1


def test_a_transformer_s_blocks_run_compiled(one_of):
    plain, runs = one_of("flow").sampler, []
    sampler = load_sampler(f"{plain.name}?kernels=on&channels_last=on")

    def counting(graph, inputs):
        def run(*given):
            runs.append(graph)
            return graph.forward(*given)

        return run

    assert len(blocks(sampler.denoiser)) == 2
    sampler.compiled.append(CompiledBlocks(blocks(sampler.denoiser), backend=counting))
    found = []
    for one in (sampler, plain):
        latents = one.initial_latents([0, 1]).requires_grad_()
        end = result(
            denoise(one, latents, condition(one, PROMPTS), steps=2, guidance_scale=3.0, segment=1)
        )
        found.append((end, *torch.autograd.grad(end.square().sum(), latents)))
    for value, true in zip(*found, strict=True):
        torch.testing.assert_close(value, true, rtol=1e-3, atol=1e-4)
    # Both steps, and the first once more for backward.
    assert len(runs) == 3 * 2


@pytest.mark.parametrize(
    ("size", "said"), [(18, "a multiple of 4$"), (36, r"a multiple of 4, up to 32$")]
)
def test_images_are_of_whole_patches_that_have_a_place(one_of, size, said):
    with pytest.raises(UsageError, match=said):
        load_sampler(f"{one_of('flow').folder}?image_size={size}")


def test_words_that_are_to_be_looked_for_are_a_usage_error(one_of):
    tiny = one_of("flow")
    with pytest.raises(UsageError, match=r"no cross-attention.*mask = none or given"):
        check_sampler(str(tiny.folder), words=True)
    check_sampler(str(tiny.folder))
    latents, own = tiny.sampler.initial_latents([1, 2]), condition(tiny.sampler, PROMPTS)
    attention = AttentionMaps(injected_steps=1, word_steps=0)
    with pytest.raises(UsageError, match="no cross-attention"):
        watch(tiny.sampler, latents, own, attention, steps=2, guidance_scale=1.0)


@pytest.mark.parametrize("find", [load_sampler, check_sampler])
def test_a_schedule_that_is_no_flow_s_is_a_usage_error(one_of, tmp_path, find):
    folder = tmp_path / "pipeline"
    shutil.copytree(one_of("flow_clip").folder, folder)
    FlowMatchEulerDiscreteScheduler(invert_sigmas=True).save_pretrained(folder / "scheduler")
    with pytest.raises(UsageError, match="with invert_sigmas: a StableDiffusion3Pipeline"):
        find(str(folder))
    shutil.copytree(
        one_of("epsilon").folder / "scheduler", folder / "scheduler", dirs_exist_ok=True
    )
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "PNDMScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UsageError, match=r"has a PNDMScheduler.*needs?|supported with a FlowMatch"):
        find(str(folder))
