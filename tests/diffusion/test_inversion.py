"""Inversion: DDIM as diffusers has it, null text as a plain loop has it, and images come back."""

import math
from dataclasses import replace

import pytest
import torch
from diffusers import DDIMInverseScheduler

from whylens.diffusion import (
    Inversion,
    condition,
    denoise,
    invert_images,
    invert_null_text,
    load_sampler,
    result,
    sample,
)
from whylens.diffusion.chain import chain_step
from whylens.diffusion.conditioning import Embeddings
from whylens.diffusion.inversion import STOP, ddim_trajectory, encode_closely, psnr
from whylens.diffusion.schedules import schedule
from whylens.errors import UsageError

PROMPTS = ["a photo of a boat on grass", "a photo of a moon"]
STEPS = 20
CHAIN = {"steps": STEPS, "guidance_scale": 3.0}


@pytest.fixture(scope="module")
def planted():
    return load_sampler("planted")


@pytest.fixture(scope="module")
def images(planted):
    return sample(planted, PROMPTS, [1, 2], steps=20).clone()


def ratios(one, other):
    return [-10 * math.log10(float(gap)) for gap in (one - other).square().mean((1, 2, 3))]


def led_back(sampler, found, prompts=PROMPTS):
    conditioning = found.onto(condition(sampler, prompts))
    with torch.no_grad():
        return sampler.decode(result(denoise(sampler, found.noise, conditioning, **CHAIN)))


@pytest.fixture(scope="module")
def null_text(planted, images):
    options = {"null_text_rate": 0.1, "encoder_steps": 10}
    return invert_images(planted, images[1:], PROMPTS[1:], kind="null_text", **options, **CHAIN)


@pytest.fixture(scope="module")
def direct(planted, images):
    return invert_images(planted, images, PROMPTS, kind="direct", **CHAIN)


def test_a_sampled_image_comes_back_by_null_text(planted, images, null_text):
    back = ratios(led_back(planted, null_text, PROMPTS[1:]), images[1:])
    assert back[0] > 35
    assert null_text.psnr.tolist() == pytest.approx(back, abs=0.01)
    # Without the null texts it does not.
    plain = replace(null_text, null_delta=None)
    assert ratios(led_back(planted, plain, PROMPTS[1:]), images[1:])[0] < 30


def test_direct_inversion_leads_back_as_far_as_the_autoencoder_does(planted, images, direct):
    with torch.no_grad():
        decoded = planted.decode(planted.encode(images))
    back = led_back(planted, direct)
    assert min(ratios(back, decoded)) > 80
    assert direct.psnr.tolist() == pytest.approx(ratios(back, images), abs=0.01)
    assert direct.decoder_psnr.tolist() == pytest.approx(ratios(decoded, images), abs=0.01)


def test_the_encoder_s_latents_are_led_to_what_decodes_to_the_image(planted, images, direct):
    latents = encode_closely(planted, images, 10)
    with torch.no_grad():
        found = psnr(planted.decode(latents), images)
    assert (found > direct.decoder_psnr + 5).all()
    torch.testing.assert_close(encode_closely(planted, images, 0), planted.encode(images))


def test_inversions_of_a_batch_are_those_of_its_images(planted, images, direct):
    alone = [
        invert_images(planted, images[[row]], [PROMPTS[row]], kind="direct", **CHAIN)
        for row in range(2)
    ]
    together = Inversion.cat(alone)
    torch.testing.assert_close(together.offsets, direct.offsets, rtol=0, atol=1e-4)
    one = direct.select(torch.tensor([1]))
    assert one.offsets.shape[:2] == (1, STEPS)
    torch.testing.assert_close(
        led_back(planted, one, PROMPTS[1:]), led_back(planted, direct)[1:], rtol=0, atol=1e-4
    )


def test_the_trajectory_is_that_of_diffusers_inverse_scheduler(planted):
    latents = torch.randn(1, *planted.latent_shape, generator=torch.Generator().manual_seed(0))
    own = condition(planted, PROMPTS[:1])
    inverse = DDIMInverseScheduler.from_config(planted.scheduler.config)
    inverse.set_timesteps(10)
    expected = latents
    for time in inverse.timesteps:
        # diffusers asks the U-Net at the time that is gone to, as we do.
        with torch.no_grad():
            predicted = planted.predict(expected, float(time), own.text)
        expected = inverse.step(predicted, time, expected).prev_sample
    trajectory = ddim_trajectory(planted, latents, own, steps=10)
    assert trajectory.shape[1] == 11
    torch.testing.assert_close(trajectory[:, -1], latents, rtol=0, atol=0)
    torch.testing.assert_close(trajectory[:, 0], expected, rtol=1e-4, atol=1e-4)


def one_by_one(sampler, latents, prompt, steps):
    """Null-text inversion of one image, with torch's own Adam."""
    own = condition(sampler, [prompt])
    trajectory = ddim_trajectory(sampler, latents, own, steps=steps)
    current, null, nulls = trajectory[:, 0], own.null.clone(), []
    for index, step in enumerate(schedule(sampler, steps)):
        null = null.clone().requires_grad_(True)
        adam = torch.optim.Adam([null], lr=1e-2 * (1 - index / 100))
        for _ in range(10):
            following, _ = chain_step(sampler, current, step, Embeddings(own.text, null), 3.0)
            loss = torch.nn.functional.mse_loss(following, trajectory[:, index + 1])
            if loss.item() < STOP:
                break
            adam.zero_grad()
            loss.backward()
            adam.step()
        null = null.detach()
        with torch.no_grad():
            current, _ = chain_step(sampler, current, step, Embeddings(own.text, null), 3.0)
        nulls.append(null - own.null)
    return torch.stack(nulls, 1)


def test_a_batch_finds_the_null_texts_that_a_plain_loop_finds_for_each_image(one_of):
    double = one_of("v_prediction").double
    with torch.no_grad():
        latents = double.encode(sample(double, PROMPTS, [1, 2], steps=3))
    own = condition(double, PROMPTS)
    _, found, _ = invert_null_text(double, latents, own, steps=3, guidance_scale=3.0)
    for row, prompt in enumerate(PROMPTS):
        expected = one_by_one(double, latents[[row]], prompt, 3)
        # Adam divides by gradients, and makes a rounding of 1e-16 a difference of 1e-7.
        torch.testing.assert_close(found.null_delta[[row]], expected, rtol=0, atol=1e-6)
    assert (found.null_delta[0] - found.null_delta[1]).abs().max() > 1e-3


def test_null_text_needs_guidance(planted, images):
    with pytest.raises(UsageError, match="needs guidance"):
        invert_images(planted, images, PROMPTS, kind="null_text", steps=2, guidance_scale=1.0)
