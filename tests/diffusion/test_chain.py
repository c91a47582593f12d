from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler

from whylens.diffusion import Conditioning, condition, invert, run_chain, sample

PROMPTS = ["a photo of a boat on grass", "a photo of a moon"]


def problem(sampler, steps, seed=0, size=0.3):
    """Latents [B, ...] and a conditioning with deltas at every step, all differentiable."""
    generator = torch.Generator().manual_seed(seed)
    plain = condition(sampler, PROMPTS)

    def drawn(*shape):
        values = torch.randn(shape, generator=generator, dtype=torch.float64) * size
        return values.to(sampler.dtype).requires_grad_()

    latents = sampler.initial_latents([5, 6]).requires_grad_()
    deltas = [drawn(steps, *plain.text.shape) for _ in range(2)]
    return latents, replace(plain, text_delta=deltas[0], null_delta=deltas[1])


def textbook_chain(sampler, latents, conditioning, steps, scale):
    """(latents after it, x0 predicted at it) of each step: a plain loop around diffusers' step."""
    scheduler = DDIMScheduler.from_config(sampler.scheduler.config, clip_sample=False)
    scheduler.set_timesteps(steps)
    trail = []
    for index, time in enumerate(scheduler.timesteps):
        text = conditioning.text + conditioning.text_delta[index]
        null = conditioning.null + conditioning.null_delta[index]
        with_text = sampler.unet(latents, time, text).sample
        without = sampler.unet(latents, time, null).sample
        out = scheduler.step(without + scale * (with_text - without), time, latents)
        latents = out.prev_sample
        trail.append((latents, out.pred_original_sample))
    return trail


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("steps", [4, 7])
def test_a_plain_sample_is_what_diffusers_makes(pipeline, guidance_scale, steps):
    images = sample(pipeline.sampler, PROMPTS, [3, 4], steps=steps, guidance_scale=guidance_scale)
    expected = pipeline.reference(
        PROMPTS,
        latents=pipeline.sampler.initial_latents([3, 4]),
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        output_type="pt",
    ).images
    assert images.shape == (2, 3, 16, 16)
    assert images.std() > 0.05
    torch.testing.assert_close(images.clone(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_gradients_through_the_chain_are_the_finite_differences(pipeline, guidance_scale):
    sampler, steps = pipeline.double, 4
    latents, conditioning = problem(sampler, steps)
    variables = {
        "latents": latents,
        "text_delta": conditioning.text_delta,
        "null_delta": conditioning.null_delta,
    }
    if guidance_scale == 1.0:
        del variables["null_delta"]
    weights = torch.randn(2, *latents.shape, generator=torch.Generator().manual_seed(9)).double()

    def loss(values):
        deltas = {name: value for name, value in values.items() if name != "latents"}
        predictions = run_chain(
            sampler,
            values["latents"],
            replace(conditioning, **deltas),
            steps=steps,
            guidance_scale=guidance_scale,
            keep_last=2,
        )
        return (torch.stack(predictions) * weights).sum()

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


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_recomputed_gradients_are_those_of_a_plain_loop(pipeline, guidance_scale):
    sampler, steps = pipeline.double, 5
    latents, conditioning = problem(sampler, steps, seed=1)
    inputs = [latents, conditioning.text_delta]
    if guidance_scale != 1.0:
        inputs.append(conditioning.null_delta)
    found = run_chain(
        sampler, latents, conditioning, steps=steps, guidance_scale=guidance_scale, keep_last=3
    )
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


def kept_by_autograd(forward):
    """Elements that autograd keeps of a forward pass."""
    count = 0

    def keep(tensor):
        nonlocal count
        count += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    return count


def test_memory_holds_one_steps_activations(pipeline):
    sampler = pipeline.sampler

    def saved(steps):
        start = problem(sampler, steps)
        return kept_by_autograd(lambda: run_chain(sampler, *start, steps=steps, guidance_scale=3.0))

    start = problem(sampler, 1)
    kept_by_one = kept_by_autograd(lambda: textbook_chain(sampler, *start, 1, 3.0))
    assert (saved(8) - saved(4)) / 4 < kept_by_one / 10


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_an_inverted_image_comes_back_exactly(pipeline, guidance_scale):
    sampler, options = pipeline.sampler, {"steps": 6, "guidance_scale": guidance_scale}
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    latents = sampler.encode(images)
    plain = condition(sampler, PROMPTS)
    noise, conditioning = invert(sampler, latents, plain, **options)
    (back,) = run_chain(sampler, noise, conditioning, **options)
    torch.testing.assert_close(back, latents, rtol=0, atol=1e-4)
    # It is the corrections and the prompt that lead there.
    assert conditioning.offsets.shape == (6, *latents.shape)
    (uncorrected,) = run_chain(sampler, noise, plain, **options)
    assert (uncorrected - latents).abs().max() > 1e-2
    other = conditioning.with_text(sampler.encode_prompts(PROMPTS[::-1]))
    (edited,) = run_chain(sampler, noise, other, **options)
    assert (edited - latents).abs().max() > 1e-3


def test_inversion_goes_the_way_of_ddim_backwards(pipeline):
    sampler = pipeline.double
    latents = sampler.initial_latents([1, 2]) * 0.5
    conditioning = condition(sampler, PROMPTS)
    noise, _ = invert(sampler, latents, conditioning, steps=5, guidance_scale=3.0)
    shares = sampler.scheduler.alphas_cumprod.double()
    sampler.scheduler.set_timesteps(5)
    times = sampler.scheduler.timesteps.tolist()
    z = latents
    for time in reversed(times):
        before = time - 200
        near = shares[before] if before >= 0 else sampler.scheduler.final_alpha_cumprod.double()
        far = shares[time]
        with torch.no_grad():
            out = sampler.unet(z, time, conditioning.text).sample
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
    offsets = torch.randn((3, *latents.shape), generator=generator).double()
    conditioning = replace(conditioning, offsets=offsets)
    rows = torch.tensor([1])
    with torch.no_grad():
        (both,) = run_chain(sampler, latents, conditioning, steps=3, guidance_scale=3.0)
        (one,) = run_chain(
            sampler, latents[rows], conditioning.select(rows), steps=3, guidance_scale=3.0
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
