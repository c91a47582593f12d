import json
import shutil

import pytest
import torch

from whylens.diffusion import load_sampler
from whylens.errors import UsageError


def test_it_knows_the_sizes_of_its_pipeline(pipeline):
    sampler = pipeline.sampler
    assert sampler.latent_shape == (3, 8, 8)
    assert sampler.image_size == 16
    assert sampler.name == str(pipeline.folder)
    assert (sampler.device, sampler.dtype) == (torch.device("cpu"), torch.float32)
    assert pipeline.double.dtype == torch.float64
    assert sampler.prediction == pipeline.reference.scheduler.config.prediction_type


def test_its_networks_are_frozen(pipeline):
    for module in (pipeline.sampler.unet, pipeline.sampler.vae):
        assert not module.training
        assert not any(p.requires_grad for p in module.parameters())
    assert not pipeline.sampler.encode_prompts(["a boat"]).requires_grad


def test_prompts_are_encoded_as_diffusers_does(pipeline):
    prompts = ["a photo of a boat on grass", "", "a moon " * 30]
    found = pipeline.sampler.encode_prompts(prompts)
    expected, _ = pipeline.reference.encode_prompt(prompts, "cpu", 1, False)
    assert found.shape == (3, 16, 16)
    torch.testing.assert_close(found, expected)


def test_images_are_encoded_and_decoded_as_the_autoencoder_does(pipeline):
    sampler, vae = pipeline.sampler, pipeline.reference.vae
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    latents = sampler.encode(images)
    assert latents.shape == (2, *sampler.latent_shape)
    with torch.no_grad():
        mean = vae.encode(images * 2 - 1).latent_dist.mean
        raw = vae.decode(mean).sample
    torch.testing.assert_close(latents, mean * 5.0)
    decoded = sampler.decode(latents * 1.0)
    assert decoded.shape == images.shape
    torch.testing.assert_close(decoded, (raw * 0.5 + 0.5).clip(0, 1), rtol=0, atol=1e-5)
    loud = sampler.decode(latents * 50)
    assert loud.min() >= 0
    assert loud.max() <= 1


def test_decoding_is_differentiable(pipeline):
    latents = pipeline.double.initial_latents([0]).mul(0.1).requires_grad_()
    total = pipeline.double.decode(latents).square().sum()
    (gradient,) = torch.autograd.grad(total, latents)
    way = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        ahead, behind = (
            pipeline.double.decode(latents + h * way).square().sum() for h in (1e-6, -1e-6)
        )
    assert float((gradient * way).sum()) == pytest.approx(float(ahead - behind) / 2e-6, rel=1e-5)


def test_initial_latents_are_standard_normal_and_each_seeds_own(pipeline):
    many = pipeline.sampler.initial_latents(range(100))
    assert many.shape == (100, 3, 8, 8)
    assert abs(float(many.mean())) < 0.03
    assert float(many.std()) == pytest.approx(1, abs=0.03)
    torch.testing.assert_close(pipeline.sampler.initial_latents([41])[0], many[41])
    assert not torch.equal(many[0], many[1])


@pytest.mark.parametrize("name", ["no-such-sampler", "./nowhere", "/nowhere/at-all"])
def test_an_unknown_sampler_is_a_usage_error(name):
    with pytest.raises(UsageError, match=rf"no sampler '{name}'.*model_index\.json"):
        load_sampler(name)


@pytest.fixture
def copied(pipeline, tmp_path):
    shutil.copytree(pipeline.folder, tmp_path / "pipeline")
    return tmp_path / "pipeline"


def edited(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_broken_pipeline_folder_is_a_usage_error(copied):
    shutil.rmtree(copied / "unet")
    with pytest.raises(UsageError, match="can't be loaded as a StableDiffusionPipeline"):
        load_sampler(str(copied))


@pytest.mark.parametrize("kind", ["StableDiffusionXLPipeline", "StableDiffusionImg2ImgPipeline"])
def test_a_pipeline_of_another_kind_is_a_usage_error(copied, kind):
    edited(copied / "model_index.json", _class_name=kind)
    with pytest.raises(UsageError, match=f"is a {kind}: only a StableDiffusionPipeline"):
        load_sampler(str(copied))


def test_a_prediction_of_another_kind_is_a_usage_error(copied):
    edited(copied / "scheduler" / "scheduler_config.json", prediction_type="sample")
    with pytest.raises(UsageError, match=r"'sample'.*epsilon or v_prediction"):
        load_sampler(str(copied))
