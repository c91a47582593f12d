import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler

from whylens.diffusion import Conditioning, Sampler, condition, denoise, invert, result, sample
from whylens.diffusion.chain import chain_step, last_predictions, segments
from whylens.diffusion.schedules import schedule
from whylens.errors import UsageError

PeakMemory = runpy.run_path(str(Path(__file__).parent / "peak_memory.py"))["PeakMemory"]
PROMPTS = ["a photo of a boat on grass", "a photo of a moon"]


def problem(sampler, steps, seed=0, size=0.3):
    """Latents [B, ...] and a conditioning with deltas at every step, all differentiable."""
    generator = torch.Generator().manual_seed(seed)
    plain = condition(sampler, PROMPTS)

    def drawn(*shape):
        values = torch.randn(shape, generator=generator, dtype=torch.float64) * size
        return values.to(sampler.dtype).requires_grad_()

    latents = sampler.initial_latents([5, 6]).requires_grad_()
    deltas = [drawn(len(PROMPTS), steps, *plain.text.shape[1:]) for _ in range(2)]
    return latents, replace(plain, text_delta=deltas[0], null_delta=deltas[1])


def added(sampler, pooled):
    """What the U-Net of SDXL takes beside the text."""
    if pooled is None:
        return None
    sizes = torch.tensor([[16, 16, 0, 0, 16, 16]], dtype=sampler.dtype)
    return {"text_embeds": pooled, "time_ids": sizes.expand(len(pooled), -1)}


def textbook_chain(sampler, latents, conditioning, steps, scale):
    """(latents after it, x0 predicted at it) of each step: a plain loop around diffusers' step."""
    config = sampler.scheduler.config
    if isinstance(sampler.scheduler, EulerDiscreteScheduler):
        # Its step rounds to float32: Karras et al. 2022, algorithm 1 without noise, written out.
        scheduler = EulerDiscreteScheduler.from_config(config)
    else:
        scheduler = DDIMScheduler.from_config(config, clip_sample=False)
    scheduler.set_timesteps(steps)
    sigmas = getattr(scheduler, "sigmas", torch.zeros(steps + 1)).double()
    latents = latents * (sigmas[0] ** 2 + 1).sqrt()
    trail = []
    for index, time in enumerate(scheduler.timesteps):
        text = conditioning.text + conditioning.text_delta[:, index]
        null = conditioning.null + conditioning.null_delta[:, index]
        sigma, after = sigmas[index], sigmas[index + 1]
        seen = latents / (sigma**2 + 1).sqrt()
        with_text = sampler.denoiser(
            seen, time, text, added_cond_kwargs=added(sampler, conditioning.pooled)
        ).sample
        without = sampler.denoiser(
            seen, time, null, added_cond_kwargs=added(sampler, conditioning.null_pooled)
        ).sample
        out = without + scale * (with_text - without)
        if isinstance(scheduler, EulerDiscreteScheduler):
            x0 = latents - sigma * out
            latents = latents + (after - sigma) * out
        else:
            latents, x0 = scheduler.step(out, time, latents, return_dict=False)
        trail.append((latents, x0))
    return trail


@pytest.mark.parametrize("guidance_scale", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 4, 7])
def test_a_plain_sample_is_what_diffusers_makes(pipeline, guidance_scale, steps):
    images = sample(pipeline.sampler, PROMPTS, [3, 4], steps=steps, guidance_scale=guidance_scale)
    expected = pipeline.reference(
        PROMPTS,
        generator=[torch.Generator().manual_seed(seed) for seed in (3, 4)],
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        output_type="pt",
    ).images
    assert images.shape == (2, 3, 16, 16)
    assert images.std() > 0.05
    torch.testing.assert_close(images.clone(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"timestep_spacing": spacing, **more}
        for spacing in ("leading", "trailing", "linspace")
        for more in ({"steps_offset": 1}, {"set_alpha_to_one": False})
    ]
    + [{"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}],
)
@pytest.mark.parametrize("family", ["v_prediction", "xl"])
def test_the_schedules_own_settings_are_honoured(one_of, family, changes):
    pipeline = one_of(family)
    reference = pipeline.reference
    scheduler = reference.scheduler
    try:
        reference.scheduler = type(scheduler).from_config(scheduler.config, **changes)
        sampler = Sampler("changed", reference)
        images = sample(sampler, PROMPTS, [3, 4], steps=6)
        expected = reference(
            PROMPTS,
            generator=[torch.Generator().manual_seed(seed) for seed in (3, 4)],
            num_inference_steps=6,
            guidance_scale=3.0,
            output_type="pt",
        ).images
    finally:
        reference.scheduler = scheduler
    torch.testing.assert_close(images.clone(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("guidance_scale", "segment"), [(0.0, 1), (3.0, 2)])
def test_gradients_through_the_chain_are_the_finite_differences(pipeline, guidance_scale, segment):
    sampler, steps = pipeline.double, 4
    latents, conditioning = problem(sampler, steps)
    variables = {
        "latents": latents,
        "text_delta": conditioning.text_delta,
        "null_delta": conditioning.null_delta,
    }
    if guidance_scale == 0:
        del variables["null_delta"]
    weights = torch.randn(2, *latents.shape, generator=torch.Generator().manual_seed(9)).double()

    def loss(values):
        deltas = {name: value for name, value in values.items() if name != "latents"}
        states = denoise(
            sampler,
            values["latents"],
            replace(conditioning, **deltas),
            steps=steps,
            guidance_scale=guidance_scale,
            segment=segment,
        )
        return (torch.stack(last_predictions(states, 2)) * weights).sum()

    gradients = torch.autograd.grad(loss(variables), list(variables.values()))
    generator = torch.Generator().manual_seed(10)
    for (name, value), gradient in zip(variables.items(), gradients, strict=True):
        assert gradient.abs().max() > 0
        for _ in range(3):
            way = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            with torch.no_grad():
                h = 1e-5
                ahead, behind = (
                    loss({**variables, name: value + sign * h * way}) for sign in (1, -1)
                )
            slope = float((gradient * way).sum())
            assert slope == pytest.approx(float(ahead - behind) / (2 * h), rel=1e-5), name


@pytest.mark.parametrize("segment", [None, 1, 2])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_recomputed_gradients_are_those_of_a_plain_loop(pipeline, guidance_scale, segment):
    sampler, steps = pipeline.double, 5
    latents, conditioning = problem(sampler, steps, seed=1)
    inputs = [latents, conditioning.text_delta]
    if guidance_scale != 1.0:
        inputs.append(conditioning.null_delta)
    states = denoise(
        sampler,
        latents,
        conditioning,
        steps=steps,
        guidance_scale=guidance_scale,
        segment=segment,
    )
    found = last_predictions(states, 3)
    trail = textbook_chain(sampler, latents, conditioning, steps, guidance_scale)
    expected = [trail[2][1], trail[3][1], trail[4][0]]
    weights = torch.randn(3, *latents.shape, generator=torch.Generator().manual_seed(2)).double()
    for value, true in zip(found, expected, strict=True):
        torch.testing.assert_close(value, true, rtol=1e-5, atol=1e-5)
    for value, true in zip(
        torch.autograd.grad((torch.stack(found) * weights).sum(), inputs),
        torch.autograd.grad((torch.stack(expected) * weights).sum(), inputs),
        strict=True,
    ):
        assert true.abs().max() > 0
        torch.testing.assert_close(value, true, rtol=1e-5, atol=1e-5 * float(true.abs().max()))


def test_truncated_gradients_take_earlier_predictions_for_constants(pipeline):
    sampler, steps = pipeline.double, 5
    latents, conditioning = problem(sampler, steps, seed=1)
    options = {"steps": steps, "guidance_scale": 3.0}
    inputs = [latents, conditioning.text_delta, conditioning.null_delta]
    weights = torch.randn(2, *latents.shape, generator=torch.Generator().manual_seed(2)).double()

    def gradients(predictions):
        return torch.autograd.grad((torch.stack(predictions) * weights).sum(), inputs)

    exact = last_predictions(denoise(sampler, latents, conditioning, **options), 2)
    states = denoise(sampler, latents, conditioning, **options, gradient_steps=3)
    found = last_predictions(states, 2)
    torch.testing.assert_close(torch.stack(found), torch.stack(exact), rtol=0, atol=0)
    by_latents, by_text, by_null = gradients(found)
    _, true_text, true_null = gradients(exact)
    for value, true in ((by_text, true_text), (by_null, true_null)):
        assert not value[:, :2].any()
        assert true[:, :2].abs().max() > 0
        torch.testing.assert_close(value[:, 2:], true[:, 2:])
    # The last three steps from where the first two lead, which move in proportion to their start.
    times, embeddings = schedule(sampler, steps), conditioning.at_each_step(steps)
    with torch.no_grad():
        middle = latents
        for index in (0, 1):
            middle = chain_step(sampler, middle, times[index], embeddings[index], 3.0).latents
    middle.requires_grad_()
    now = middle
    kept = []
    for index in (2, 3, 4):
        now, x0 = chain_step(sampler, now, times[index], embeddings[index], 3.0)
        kept.append(x0)
    (by_middle,) = torch.autograd.grad((torch.stack([kept[-2], now]) * weights).sum(), middle)
    ratio = (by_latents / by_middle).flatten()
    assert ratio.min() > 0
    torch.testing.assert_close(ratio, ratio.median().expand_as(ratio), rtol=1e-6, atol=0)


def test_segments_end_where_the_chain_ends():
    assert segments(0, 10, 4) == [(0, 2), (2, 6), (6, 10)]
    assert segments(3, 5, 1) == [(3, 4), (4, 5)]
    assert segments(0, 4, 9) == [(0, 4)]
    assert segments(0, 25) == [(0, 5), (5, 15), (15, 25)]


def peak_of_backward(sampler, steps, **options):
    """Largest size in MB of what lives at once, of a chain and its backward pass."""
    latents, conditioning = problem(sampler, steps)
    with PeakMemory() as peak:
        states = denoise(sampler, latents, conditioning, steps=steps, guidance_scale=3.0, **options)
        out = result(states)
        torch.autograd.grad(out.sum(), [latents, conditioning.text_delta])
    return peak.megabytes


@pytest.mark.slow
def test_memory_grows_as_the_root_of_the_steps_or_not_at_all(one_of):
    sampler = one_of("v_prediction").sampler
    plain = {steps: peak_of_backward(sampler, steps, segment=steps) for steps in (2, 6)}
    step = (plain[6] - plain[2]) / 4
    assert step > plain[2] / 4
    # Twice the root of 4 and of 16 is 4 and 8.
    rooted = {steps: peak_of_backward(sampler, steps) for steps in (4, 16)}
    assert rooted[16] - rooted[4] < 5 * step
    assert rooted[16] < plain[6] + 3 * step
    least = {steps: peak_of_backward(sampler, steps, segment=1) for steps in (2, 16)}
    assert least[16] - least[2] < step
    cut = {steps: peak_of_backward(sampler, steps, gradient_steps=2) for steps in (4, 16)}
    assert cut[16] - cut[4] < step / 2


@pytest.mark.parametrize(("family", "steps"), [("v_prediction", 1001), ("epsilon", 1000)])
def test_more_steps_than_the_schedule_has_is_a_usage_error(one_of, family, steps):
    with pytest.raises(UsageError, match=f"{steps} steps are too many.*trained on 1000"):
        schedule(one_of(family).sampler, steps)


@pytest.mark.parametrize("family", ["v_prediction", "turbo"])
def test_a_trailing_schedule_has_as_many_steps_as_were_asked_for(one_of, family):
    # 61 is one of the counts for which diffusers has a step too many, at time -1.
    found = schedule(one_of(family).sampler, 61)
    assert [step.time for step in found] == sorted({step.time for step in found}, reverse=True)
    assert (len(found), found[0].time, found[-1].alpha_bar_after) == (61, 999, 1)
    assert all(one.alpha_bar_after > one.alpha_bar for one in found)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_an_inverted_image_comes_back_exactly(pipeline, guidance_scale):
    sampler, options = pipeline.sampler, {"steps": 6, "guidance_scale": guidance_scale}
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    latents = sampler.encode(images)
    plain = condition(sampler, PROMPTS)
    noise, conditioning, _ = invert(sampler, latents, plain, **options)
    back = result(denoise(sampler, noise, conditioning, **options))
    torch.testing.assert_close(back, latents, rtol=0, atol=1e-4)
    # It is the corrections and the prompt that lead there.
    assert conditioning.offsets.shape == (2, 6, *latents.shape[1:])
    uncorrected = result(denoise(sampler, noise, plain, **options))
    assert (uncorrected - latents).abs().max() > 1e-2
    other = conditioning.with_text(sampler.encode_prompts(PROMPTS[::-1]))
    edited = result(denoise(sampler, noise, other, **options))
    assert (edited - latents).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["v_prediction", "epsilon"])
def test_inversion_goes_the_way_of_ddim_backwards(one_of, family):
    sampler = one_of(family).double
    latents = sampler.initial_latents([1, 2]) * 0.5
    conditioning = condition(sampler, PROMPTS)
    noise, _, _ = invert(sampler, latents, conditioning, steps=5, guidance_scale=3.0)
    shares = sampler.scheduler.alphas_cumprod.double()
    sampler.scheduler.set_timesteps(5)
    times = sampler.scheduler.timesteps.tolist()
    z = latents
    for time in reversed(times):
        before = time - 200
        near = shares[before] if before >= 0 else sampler.scheduler.final_alpha_cumprod.double()
        far = shares[time]
        with torch.no_grad():
            out = sampler.denoiser(z, time, conditioning.text).sample
        if sampler.prediction == "epsilon":
            noise_here, image = out, (z - (1 - near).sqrt() * out) / near.sqrt()
        else:
            noise_here = near.sqrt() * out + (1 - near).sqrt() * z
            image = near.sqrt() * z - (1 - near).sqrt() * out
        z = far.sqrt() * image + (1 - far).sqrt() * noise_here
    torch.testing.assert_close(noise, z, rtol=1e-6, atol=1e-6)


def test_some_problems_of_a_batch_alone_are_the_same(pipeline):
    sampler = pipeline.double
    latents, conditioning = problem(sampler, 3)
    generator = torch.Generator().manual_seed(4)
    offsets = torch.randn((2, 3, *latents.shape[1:]), generator=generator).double()
    conditioning = replace(conditioning, offsets=offsets)
    rows = torch.tensor([1])
    with torch.no_grad():
        both = result(denoise(sampler, latents, conditioning, steps=3, guidance_scale=3.0))
        one = result(
            denoise(sampler, latents[rows], conditioning.select(rows), steps=3, guidance_scale=3.0)
        )
    torch.testing.assert_close(one, both[rows])
    bare = Conditioning(conditioning.text, conditioning.null).select(torch.tensor([1, 0]))
    torch.testing.assert_close(bare.text, conditioning.text.flip(0))
    assert bare.text_delta is bare.null_delta is bare.offsets is None


def test_the_same_seed_gives_the_same_image_in_any_batch(pipeline):
    together = sample(pipeline.sampler, PROMPTS, [8, 9], steps=3)
    alone = sample(pipeline.sampler, PROMPTS[1:], [9], steps=3)
    torch.testing.assert_close(together[1:].clone(), alone.clone(), rtol=0, atol=1e-5)
    other = sample(pipeline.sampler, PROMPTS[1:], [10], steps=3)
    assert (other - alone).abs().max() > 0.01
