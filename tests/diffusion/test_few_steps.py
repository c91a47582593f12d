"""Models of one to four steps: diffusers' own images, gradients, and images that come back."""

from dataclasses import replace

import pytest
import torch

from whylens.diffusion import (
    condition,
    denoise,
    invert_images,
    invert_null_text,
    result,
    sample,
)
from whylens.diffusion.chain import last_predictions
from whylens.diffusion.inversion import noised_trajectory
from whylens.diffusion.schedules import fresh_noise, schedule
from whylens.errors import UsageError

PROMPTS = ["a photo of a boat on grass", "a photo of a moon"]
CONSISTENCY = ["lcm", "xl_lcm", "lcm_adapter"]
# Of one step and no guidance, as they are made to be used.
FEW = [*CONSISTENCY, "turbo", "xl_turbo"]


@pytest.mark.parametrize("family", CONSISTENCY)
@pytest.mark.parametrize(("steps", "guidance_scale"), [(1, 8.5), (1, 1.0), (2, 3.0), (4, 8.5)])
def test_a_consistency_model_s_images_are_those_of_diffusers(one_of, family, steps, guidance_scale):
    pipeline = one_of(family)
    images = sample(pipeline.sampler, PROMPTS, [3, 4], steps=steps, guidance_scale=guidance_scale)
    # diffusers draws the noise of all steps from the generators of the first latents.
    expected = pipeline.reference(
        PROMPTS,
        generator=[torch.Generator().manual_seed(seed) for seed in (3, 4)],
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        output_type="pt",
    ).images
    assert images.std() > 0.05
    torch.testing.assert_close(images.clone(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["lcm", "xl_lcm"])
def test_the_guidance_scale_is_an_input_and_the_null_text_is_not(one_of, family):
    sampler = one_of(family).sampler
    conditioning = condition(sampler, PROMPTS)
    latents = sampler.initial_latents([1, 2])

    def led(conditioning, guidance_scale):
        with torch.no_grad():
            return result(
                denoise(sampler, latents, conditioning, steps=2, guidance_scale=guidance_scale)
            )

    at_three = led(conditioning, 3.0)
    assert (at_three - led(conditioning, 8.0)).abs().max() > 1e-4
    other = replace(conditioning, null=conditioning.text)
    torch.testing.assert_close(led(other, 3.0), at_three, rtol=0, atol=0)
    with pytest.raises(UsageError, match=r"needs a null text.*direct or noised"):
        invert_null_text(sampler, latents, conditioning, steps=2, guidance_scale=3.0)


@pytest.mark.parametrize("family", ["lcm", "lcm_adapter"])
@pytest.mark.parametrize("steps", [1, 3])
def test_a_consistency_model_s_gradients_are_the_finite_differences(one_of, family, steps):
    sampler = one_of(family).double
    plain = replace(condition(sampler, PROMPTS), offsets=fresh_noise(sampler, [5, 6], steps))
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    variables = [
        sampler.initial_latents([5, 6]).requires_grad_(),
        (0.3 * drawn(2, steps, *plain.text.shape[1:])).requires_grad_(),
    ]
    count = min(steps, 2)
    weights = drawn(count, *variables[0].shape)

    def loss(latents, deltas):
        states = denoise(
            sampler, latents, replace(plain, text_delta=deltas), steps=steps, guidance_scale=3.0,
            segment=1,
        )  # fmt: skip
        return (torch.stack(last_predictions(states, count)) * weights).sum()

    gradients = torch.autograd.grad(loss(*variables), variables)
    for place, gradient in enumerate(gradients):
        way, h = drawn(*gradient.shape), 1e-5
        with torch.no_grad():
            ahead, behind = (
                float(
                    loss(
                        *(v + sign * h * way if i == place else v for i, v in enumerate(variables))
                    )
                )
                for sign in (1, -1)
            )
        assert float((gradient * way).sum()) == pytest.approx((ahead - behind) / (2 * h), rel=1e-5)


def test_the_noise_that_a_chain_takes_on_is_each_seed_s_own(one_of):
    sampler = one_of("lcm").sampler
    both = fresh_noise(sampler, [8, 9], 4)
    assert both.shape == (2, 4, *sampler.latent_shape)
    torch.testing.assert_close(fresh_noise(sampler, [9], 4), both[1:])
    assert not both[:, -1].any()
    sizes = [(1 - step.alpha_bar_after) ** 0.5 for step in schedule(sampler, 4)]
    found = fresh_noise(sampler, range(50), 4).std((0, 2, 3, 4)).tolist()
    assert found == pytest.approx(sizes, abs=0.02)
    assert fresh_noise(one_of("turbo").sampler, [8, 9], 4) is None


@pytest.mark.parametrize("kind", ["direct", "noised"])
@pytest.mark.parametrize("family", FEW)
@pytest.mark.parametrize("steps", [1, 3])
def test_an_inverted_image_comes_back(one_of, family, kind, steps):
    sampler, options = one_of(family).sampler, {"steps": steps, "guidance_scale": 0.0}
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = invert_images(sampler, images, PROMPTS, kind=kind, **options)
    conditioning = found.onto(condition(sampler, PROMPTS))
    assert conditioning.offsets.shape == (2, steps, *sampler.latent_shape)
    with torch.no_grad():
        back = result(denoise(sampler, found.noise, conditioning, **options))
    torch.testing.assert_close(back, found.latents, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.psnr, found.decoder_psnr, rtol=0, atol=0.01)
    # The prompt still leads: another one leads elsewhere.
    other = conditioning.with_text(*sampler.embed_prompts(PROMPTS[::-1]))
    with torch.no_grad():
        edited = result(denoise(sampler, found.noise, other, **options))
    assert (edited - back).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["lcm", "turbo"])
def test_a_noised_trajectory_has_the_schedule_s_share_of_noise(one_of, family):
    sampler = one_of(family).double
    latents = 2 * sampler.initial_latents([1])
    own = condition(sampler, PROMPTS[:1])
    trajectory = noised_trajectory(sampler, latents, own, steps=3)[0]
    noises = []
    for place, step in enumerate(schedule(sampler, 3)):
        kept, added = step.alpha_bar**0.5, (1 - step.alpha_bar) ** 0.5
        noises.append((trajectory[place] - kept * latents[0]) / added)
        assert float(noises[-1].std()) == pytest.approx(1, abs=0.2)
    torch.testing.assert_close(trajectory[-1], latents[0])
    # A consistency model takes on other noise at each step, other chains keep theirs.
    same = (noises[0] - noises[1]).abs().max() < 1e-6
    assert bool(same) == (family == "turbo")


def test_a_consistency_model_has_no_more_steps_than_it_was_distilled_from(one_of):
    with pytest.raises(UsageError, match=r"51 steps are too many.*distilled from 50"):
        schedule(one_of("lcm").sampler, 51)
