import copy
import json
import shutil
from dataclasses import replace

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from whylens.diffusion import check_sampler, condition, denoise, load_sampler, result, sample
from whylens.diffusion.loading import default_dtype
from whylens.diffusion.sampler import clamped
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
    for module in (pipeline.sampler.denoiser, pipeline.sampler.vae):
        assert not module.training
        assert not any(p.requires_grad for p in module.parameters())
    assert not pipeline.sampler.encode_prompts(["a boat"]).requires_grad


def test_prompts_are_encoded_as_diffusers_does(pipeline):
    prompts = ["a photo of a boat on grass", "", "a moon " * 30]
    encode = pipeline.reference.encode_prompt
    options = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": True}
    expected, null, *pooled = encode(prompts, **options)
    large = "text_encoder_2" in pipeline.reference.components
    found = pipeline.sampler.encode_prompts(prompts)
    assert found.shape == (3, 16, 32 if large else 16)
    torch.testing.assert_close(found, expected)
    conditioning = condition(pipeline.sampler, prompts)
    torch.testing.assert_close(conditioning.text, expected)
    torch.testing.assert_close(conditioning.null, null)
    assert len(pooled) == (2 if large else 0)
    if large:
        torch.testing.assert_close(conditioning.pooled, pooled[0])
        torch.testing.assert_close(conditioning.null_pooled, pooled[1])
        # What force_zeros_for_empty_prompt in the pipeline's configuration says.
        assert not conditioning.null.any()
        assert conditioning.pooled.any()
    else:
        assert conditioning.pooled is conditioning.null_pooled is None


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
    def loss(latents):
        # Of a saturated pixel it wants more: there a descent has nothing to lead back.
        return -pipeline.double.decode(latents).square().sum()

    latents = pipeline.double.initial_latents([0]).mul(0.1).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(latents), latents)
    way = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        ahead, behind = (loss(latents + h * way) for h in (1e-6, -1e-6))
    assert float((gradient * way).sum()) == pytest.approx(float(ahead - behind) / 2e-6, rel=1e-5)


def test_initial_latents_are_standard_normal_and_each_seeds_own(pipeline):
    many = pipeline.sampler.initial_latents(range(100))
    assert many.shape == (100, 3, 8, 8)
    assert abs(float(many.mean())) < 0.03
    assert float(many.std()) == pytest.approx(1, abs=0.03)
    torch.testing.assert_close(pipeline.sampler.initial_latents([41])[0], many[41])
    assert not torch.equal(many[0], many[1])


@pytest.mark.parametrize("family", ["epsilon", "xl"])
def test_guidance_leads_away_from_a_negative_prompt_as_in_diffusers(one_of, family):
    tiny = one_of(family)
    sampler = load_sampler(f"{tiny.folder}?negative_prompt=a moon on grass")
    images = sample(sampler, ["a fish"], [3], steps=4)
    own = tiny.reference(
        prompt="a fish",
        negative_prompt="a moon on grass",
        generator=torch.Generator().manual_seed(3),
        num_inference_steps=4,
        guidance_scale=3.0,
        output_type="pt",
    ).images
    torch.testing.assert_close(images.clone(), own, rtol=0, atol=1e-5)
    assert (images - sample(tiny.sampler, ["a fish"], [3], steps=4)).abs().max() > 1e-3


def test_a_chain_may_end_at_its_last_prediction(one_of):
    """Stable Diffusion 1.x has set_alpha_to_one: false, and ends with some noise in its latents."""
    tiny = one_of("epsilon")
    assert not tiny.reference.scheduler.config.set_alpha_to_one
    sampler = load_sampler(f"{tiny.folder}?set_alpha_to_one=true", dtype=torch.float64)
    conditioning = condition(sampler, ["a fish"])
    latents, scheduler = sampler.initial_latents([3]), copy.deepcopy(tiny.reference.scheduler)
    # Their roots in single precision differ between processors.
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.double()
    states = list(denoise(sampler, latents, conditioning, steps=5, guidance_scale=1.0))
    scheduler.set_timesteps(5)
    with torch.no_grad():
        for time in scheduler.timesteps:
            noise = sampler.denoiser(latents, time, conditioning.text).sample
            stepped = scheduler.step(noise, time, latents)
            latents = stepped.prev_sample
    torch.testing.assert_close(states[-1].latents, stepped.pred_original_sample)
    assert (states[-1].latents - latents).abs().max() > 1e-3
    same = load_sampler(f"{tiny.folder}?set_alpha_to_one=false", dtype=torch.float64)
    assert same.scheduler.config == tiny.double.scheduler.config


@pytest.mark.parametrize("family", ["v_prediction", "xl"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_of_the_networks_only(one_of, family, dtype):
    whole = one_of(family).sampler
    half = load_sampler(f"{whole.name}?dtype={dtype}")
    assert half.denoiser.dtype == getattr(torch, dtype)
    assert half.dtype == torch.float32
    # An autoencoder overflows in float16 only.
    assert half.vae.dtype == {"bfloat16": torch.bfloat16, "float16": torch.float32}[dtype]
    prompts, options = ["a photo of a boat", "a moon"], {"steps": 3, "guidance_scale": 3.0}
    images = sample(half, prompts, [1, 2], **options)
    assert images.dtype == torch.float32
    difference = (images - sample(whole, prompts, [1, 2], **options)).abs()
    assert 0 < difference.max() < 0.05


@pytest.mark.parametrize("family", ["v_prediction", "xl"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_small_gradients_survive_half_precision(one_of, family, dtype):
    whole = one_of(family).sampler
    half = load_sampler(f"{whole.name}?dtype={dtype}")
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(2, *whole.latent_shape, generator=generator)
    # A batch's problems may have gradients of very different sizes, all far from float16's.
    weights *= torch.tensor([1e-12, 1e6]).view(2, 1, 1, 1)

    def gradients(sampler):
        conditioning = condition(sampler, ["a photo of a boat", "a moon"])
        length, width = conditioning.text.shape[1:]
        deltas = torch.zeros(2, 3, length, width, requires_grad=True)
        latents = sampler.initial_latents([1, 2]).requires_grad_()
        states = denoise(
            sampler,
            latents,
            replace(conditioning, text_delta=deltas),
            steps=3,
            guidance_scale=3.0,
        )
        return torch.autograd.grad((result(states) * weights).sum(), [latents, deltas])

    for found, true in zip(gradients(half), gradients(whole), strict=True):
        for value, other in zip(found, true, strict=True):
            assert other.abs().max() > 0
            assert (value - other).norm() < 0.1 * other.norm()


def test_the_size_of_its_images_can_be_chosen(one_of):
    small = one_of("xl").sampler
    large = load_sampler(f"{small.name}?image_size=24")
    assert (large.image_size, large.latent_shape) == (24, (3, 12, 12))
    images = sample(large, ["a moon"], [1], steps=2)
    expected = (
        one_of("xl")
        .reference(
            ["a moon"],
            generator=[torch.Generator().manual_seed(1)],
            height=24,
            width=24,
            num_inference_steps=2,
            guidance_scale=3.0,
            output_type="pt",
        )
        .images
    )
    torch.testing.assert_close(images.clone(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("device", "capability", "dtype"),
    [
        ("cpu", None, torch.float32),
        ("cuda", (7, 5), torch.float32),
        ("cuda:1", (8, 0), torch.bfloat16),
        ("cuda", (9, 0), torch.bfloat16),
    ],
)
def test_bfloat16_is_the_default_on_a_gpu_that_has_it(monkeypatch, device, capability, dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert default_dtype(device) == dtype


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("dtype=int8", "unknown dtype 'int8'; there are float32, bfloat16"),
        ("set_alpha_to_one=yes", "set_alpha_to_one is true or false, not 'yes'"),
        ("size=24", "unknown option 'size'; dtype and image_size"),
        ("image_size=large", "image_size is a number of pixels, not 'large'"),
        ("image_size=17", "can't make images of 17 px: .* a multiple of 2"),
        ("image_size=0", "can't make images of 0 px"),
    ],
)
def test_options_that_do_not_fit_are_usage_errors(one_of, options, said):
    with pytest.raises(UsageError, match=said):
        load_sampler(f"{one_of('epsilon').folder}?{options}")


def test_images_of_another_size_are_a_usage_error(one_of):
    sampler = one_of("epsilon").sampler
    with pytest.raises(UsageError, match=r"images of 8 x 12 px don't fit.*takes 16 x 16"):
        sampler.encode(torch.zeros(2, 3, 12, 8))


# What can be said of a name is said without its networks, too.
BOTH = pytest.mark.parametrize("find", [load_sampler, check_sampler])


@BOTH
@pytest.mark.parametrize("name", ["no-such-sampler", "./nowhere", "/nowhere/at-all"])
def test_an_unknown_sampler_is_a_usage_error(find, name):
    with pytest.raises(UsageError, match=rf"no sampler '{name}'.*model_index\.json"):
        find(name)


@pytest.fixture
def copied(one_of, tmp_path):
    shutil.copytree(one_of("epsilon").folder, tmp_path / "pipeline")
    return tmp_path / "pipeline"


def edited(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_broken_pipeline_folder_is_a_usage_error(copied):
    shutil.rmtree(copied / "unet")
    with pytest.raises(UsageError, match="can't be loaded by diffusers"):
        load_sampler(str(copied))


@BOTH
@pytest.mark.parametrize("kind", ["StableDiffusionImg2ImgPipeline", "FluxPipeline"])
def test_a_pipeline_of_another_kind_is_a_usage_error(find, copied, kind):
    edited(copied / "model_index.json", _class_name=kind)
    with pytest.raises(UsageError, match=f"is a {kind}: only a StableDiffusionPipeline.*SDXL"):
        find(str(copied))


@BOTH
def test_a_pipeline_that_lacks_a_part_is_a_usage_error(find, copied):
    edited(copied / "model_index.json", _class_name="StableDiffusionXLPipeline")
    with pytest.raises(UsageError, match="has no tokenizer_2, which a StableDiffusionXLPipeline"):
        find(str(copied))


@BOTH
def test_a_schedule_of_another_kind_is_a_usage_error(find, copied):
    FlowMatchEulerDiscreteScheduler().save_pretrained(copied / "scheduler")
    index = json.loads((copied / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "FlowMatchEulerDiscreteScheduler"]
    (copied / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UsageError, match="FlowMatchEulerDiscreteScheduler, which neither DDIM"):
        find(str(copied))


@BOTH
def test_a_prediction_of_another_kind_is_a_usage_error(find, copied):
    edited(copied / "scheduler" / "scheduler_config.json", prediction_type="sample")
    with pytest.raises(UsageError, match=r"'sample'.*epsilon or v_prediction"):
        find(str(copied))


def test_a_sampler_is_looked_for_without_its_networks(copied):
    for part in ("unet", "vae", "text_encoder"):
        shutil.rmtree(copied / part)
    check_sampler(f"{copied}?dtype=bfloat16")
    check_sampler("random:sdxl?graphs=on")
    for name, said in ((f"{copied}?size=24", "unknown option 'size'"), ("random:x", "no random:x")):
        with pytest.raises(UsageError, match=said):
            check_sampler(name)


def test_saturated_pixels_are_led_back_and_never_further_away():
    values = torch.tensor([-0.5, -0.5, 0.5, 1.5, 1.5], requires_grad=True)
    shown = clamped(values)
    assert shown.tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]
    # A descent goes against the gradient: up from below, down from above, both ways inside.
    (slopes,) = torch.autograd.grad(shown, values, torch.tensor([-1.0, 2.0, 3.0, -4.0, 5.0]))
    assert slopes.tolist() == [-1.0, 0.0, 3.0, 0.0, 5.0]
