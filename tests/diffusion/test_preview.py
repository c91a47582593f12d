"""Predictions on the way are decoded by a tiny autoencoder, the last one never."""

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny

from whylens.diffusion import load_sampler
from whylens.errors import UsageError
from whylens.guidance import optimiser
from whylens.guidance.objectives import PixelDistance
from whylens.guidance.problems import Problems
from whylens.guidance.settings import GuidanceSettings


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Of 3 latent channels and twice their side, as the test pipelines have."""
    folder = tmp_path_factory.mktemp("tiny")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoencoderTiny(
            latent_channels=3,
            encoder_block_out_channels=(4, 4),
            decoder_block_out_channels=(4, 4),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
        ).save_pretrained(folder)
    return folder


def test_a_preview_is_what_the_tiny_autoencoder_decodes(one_of, tiny):
    plain = one_of("v_prediction").sampler
    sampler = load_sampler(f"{plain.name}?preview_vae={tiny}")
    latents = 2 * sampler.initial_latents([1, 2])
    with torch.no_grad():
        expected = AutoencoderTiny.from_pretrained(tiny).decode(latents).sample / 2 + 0.5
        found = sampler.preview(latents)
    assert found.shape == (2, 3, 16, 16)
    torch.testing.assert_close(found, expected.clamp(0, 1))
    torch.testing.assert_close(sampler.decode(latents), plain.decode(latents))
    # Without one a preview is the image.
    torch.testing.assert_close(plain.preview(latents), plain.decode(latents))


def test_only_predictions_before_the_last_are_previews(one_of, tiny, monkeypatch):
    sampler = load_sampler(f"{one_of('v_prediction').folder}?preview_vae={tiny}")
    calls = []
    for name in ("preview", "decode"):
        own = getattr(sampler, name)

        def watched(latents, name=name, own=own):
            calls.append(name)
            return own(latents)

        monkeypatch.setattr(sampler, name, watched)
    settings = GuidanceSettings(
        chain={"steps": 4}, optimiser={"steps": 1}, views={"cutouts": 0, "predictions": 3}
    )
    problems = Problems.from_prompts(sampler, ["a photo of a boat"], [1])
    objective = PixelDistance(torch.full((1, 3, 16, 16), 0.3))
    states = list(optimiser.optimise(sampler, problems, objective, settings))
    # After the last step nothing is differentiated, and only the image is looked at.
    assert calls == ["decode", "preview", "preview", "decode"]
    # What is shown is the image, at its own loss.
    loss, _ = objective.value_and_gradient(states[-1].images)
    torch.testing.assert_close(states[-1].losses.to(loss), loss)


def test_the_planted_one_decodes_nearly_as_the_planted_decoder():
    from whylens.diffusion import sample
    from whylens.diffusion.inversion import psnr

    sampler = load_sampler("planted?preview_vae=planted")
    images = sample(sampler, ["a photo of a star on grass", "a photo of a fish"], [1, 2], steps=6)
    with torch.no_grad():
        latents = sampler.encode(images.clone())
        found = psnr(sampler.preview(latents), sampler.decode(latents))
    assert (found > 24).all()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "no preview_vae ''"),
        ("planted", "latents of 12 channels to 4 times their side, the sampler's own 3 .* 2"),
        ("nowhere", "no preview_vae 'nowhere'.*planted.*AutoencoderTiny"),
    ],
)
def test_a_preview_vae_that_does_not_fit_is_a_usage_error(one_of, name, said):
    with pytest.raises(UsageError, match=said):
        load_sampler(f"{one_of('v_prediction').folder}?preview_vae={name}")


def test_an_autoencoder_of_another_kind_is_a_usage_error(one_of, tmp_path):
    AutoencoderKL(block_out_channels=(4,), norm_num_groups=2).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="is of the class AutoencoderKL, not AutoencoderTiny"):
        load_sampler(f"{one_of('v_prediction').folder}?preview_vae={tmp_path}")
