import pytest
import torch
from diffusers.models.activations import GEGLU
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from whylens.diffusion import condition, denoise, load_sampler, result
from whylens.diffusion.frozen import FrozenGEGLU, freeze_layers
from whylens.frozen import FrozenConv2d, FrozenGroupNorm, FrozenGroupNormSilu

PROMPTS = ["a photo of a boat on grass", "a moon"]


def image_and_gradients(sampler, seeds=(0, 1)):
    """Images of a short chain, and the gradients of a weighted sum of their pixels."""
    plain = condition(sampler, PROMPTS)
    latents = sampler.initial_latents(seeds).requires_grad_()
    text = plain.text.clone().requires_grad_()
    conditioning = plain.__class__(**{**vars(plain), "text": text})
    chain = denoise(sampler, latents, conditioning, steps=2, guidance_scale=3.0)
    images = sampler.decode(result(chain))
    weights = torch.linspace(-1, 1, images.numel(), dtype=images.dtype).view_as(images)
    return images, *torch.autograd.grad((images * weights).sum(), [latents, text])


@pytest.mark.parametrize("options", ["kernels=on", "kernels=on&channels_last=on"])
def test_images_and_gradients_are_those_of_diffusers_layers(pipeline, options):
    for plain, tolerance in ((pipeline.sampler, 2e-4), (pipeline.double, 1e-9)):
        frozen = load_sampler(f"{pipeline.folder}?{options}", dtype=plain.dtype)
        for found, true in zip(*map(image_and_gradients, (frozen, plain)), strict=True):
            size = float(true.detach().abs().max())
            torch.testing.assert_close(found, true, rtol=tolerance, atol=tolerance * size)


def test_the_planted_samplers_images_and_gradients_too():
    plain, frozen = (load_sampler(f"planted?kernels={kernels}") for kernels in ("off", "on"))
    for found, true in zip(*map(image_and_gradients, (frozen, plain)), strict=True):
        size = float(true.detach().abs().max())
        torch.testing.assert_close(found, true, rtol=1e-4, atol=1e-4 * size)


def test_gradients_are_finite_differences(one_of):
    frozen = load_sampler(f"{one_of('xl').folder}?kernels=on", dtype=torch.float64)
    plain = condition(frozen, PROMPTS[:1])
    latents = frozen.initial_latents([0])

    def total(latents):
        chain = denoise(frozen, latents, plain, steps=2, guidance_scale=3.0)
        return frozen.vae.decode(result(chain)).sample.square().sum()

    direction = torch.randn_like(latents)
    (slope,) = torch.autograd.grad(total(latents.requires_grad_()), latents)
    with torch.no_grad():
        after, before = (total(latents + h * direction) for h in (1e-5, -1e-5))
    torch.testing.assert_close(
        (slope * direction).sum(), (after - before) / 2e-5, rtol=1e-6, atol=0
    )


def test_every_layer_that_can_be_replaced_is(pipeline):
    frozen = load_sampler(f"{pipeline.folder}?kernels=on")
    for network, plain in (
        (frozen.denoiser, pipeline.sampler.denoiser),
        (frozen.vae, pipeline.sampler.vae),
    ):
        kinds = {type(layer) for layer in network.modules()}
        assert not kinds & {nn.Conv2d, nn.GroupNorm, GEGLU}
        assert {FrozenConv2d, FrozenGroupNormSilu} <= kinds
        for block in network.modules():
            if isinstance(block, ResnetBlock2D):
                assert type(block.nonlinearity) is nn.Identity
        # What is stored stays what it was.
        kept, state = network.state_dict(), plain.state_dict()
        assert list(kept) == list(state)
        assert all(torch.equal(kept[name], value) for name, value in state.items())
    assert {FrozenGEGLU, FrozenGroupNorm} <= {type(layer) for layer in frozen.denoiser.modules()}


def test_what_trains_or_scales_and_shifts_stays_as_it_is():
    block = ResnetBlock2D(in_channels=8, temb_channels=4, groups=2)
    freeze_layers(block)
    assert type(block.norm1) is nn.GroupNorm
    assert type(block.conv1) is nn.Conv2d
    shifted = ResnetBlock2D(
        in_channels=8, temb_channels=4, groups=2, time_embedding_norm="scale_shift"
    )
    x, embedding = torch.randn(1, 8, 4, 4), torch.randn(1, 4)
    before = shifted(x, embedding)
    freeze_layers(shifted.requires_grad_(False))
    assert type(shifted.nonlinearity) is nn.SiLU
    torch.testing.assert_close(shifted(x, embedding), before)


def test_half_as_much_is_held(one_of):
    folder = one_of("v_prediction").folder

    def held(kernels):
        unet = load_sampler(f"{folder}?kernels={kernels}").denoiser
        weights = {p.untyped_storage().data_ptr() for p in unet.parameters()}
        kept = {}

        def keep(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage
            return tensor

        latents = torch.randn(2, 3, 8, 8, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            unet(latents, 5, torch.randn(2, 16, 16))
        return sum(storage.nbytes() for storage in kept.values())

    assert held("on") < 0.6 * held("off")


def test_maps_are_channels_last_from_the_first_convolution_to_the_last(pipeline):
    sampler, others = load_sampler(f"{pipeline.folder}?kernels=on&channels_last=on"), []
    first = (sampler.denoiser.conv_in, sampler.vae.post_quant_conv)

    def watch(layer, inputs, out):
        maps = [out] if layer in first else [out, *inputs]
        others.extend(m for m in maps if not m.is_contiguous(memory_format=torch.channels_last))

    for network in (sampler.denoiser, sampler.vae):
        for layer in network.modules():
            if isinstance(layer, FrozenConv2d | FrozenGroupNorm):
                layer.register_forward_hook(watch)
    image_and_gradients(sampler)
    assert others == []
