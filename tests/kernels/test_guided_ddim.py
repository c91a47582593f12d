import math

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from whylens.kernels.guided_ddim import guided_ddim_step, reference, step_coefficients

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}
STEP = {"alpha_bar": 0.35, "alpha_bar_prev": 0.62}


def tensors(shape, dtype=torch.float32, seed=0, count=3):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(shape, generator=generator).to(dtype).requires_grad_() for _ in range(count)
    ]


def gradients(operation, inputs, scale, weights, **options):
    """The two outputs and the gradients of a weighted sum of them, in every tensor."""
    prev, x0 = operation(*inputs, guidance_scale=scale, **options)
    total = (prev.double() * weights[0]).sum() + (x0.double() * weights[1]).sum()
    wanted = [t for t in (*inputs, scale) if isinstance(t, torch.Tensor)]
    return prev, x0, *torch.autograd.grad(total, wanted)


def compare(inputs, scale, **options):
    weights = [torch.randn_like(inputs[0], dtype=torch.float64) for _ in range(2)]
    found = gradients(guided_ddim_step, inputs, scale, weights, **options)
    expected = gradients(reference, inputs, scale, weights, **options)
    for value, true in zip(found, expected, strict=True):
        assert value.dtype == true.dtype
        tolerance = TOLERANCE[value.dtype]
        size = float(true.detach().abs().max()) if true.numel() else 1.0
        torch.testing.assert_close(value, true, rtol=tolerance, atol=tolerance * max(size, 1.0))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "flow_prediction"])
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("guidance", ["none", "number", "per sample"])
def test_values_and_gradients_are_the_references(prediction, dtype, guidance):
    inputs = tensors((3, 4, 5, 7), dtype)
    scale = 3.5
    if guidance == "none":
        inputs[2] = None
    elif guidance == "per sample":
        scale = torch.tensor([1.0, 0.0, 7.5], requires_grad=True)
    compare(inputs, scale, prediction=prediction, **STEP)


@pytest.mark.parametrize(
    "shape", [(1,), (2, 1), (1, 1025), (3, 1024), (2, 3, 37, 11), (0, 4, 8, 8)]
)
def test_odd_shapes(shape):
    scale = torch.linspace(0.5, 4, shape[0]).requires_grad_()
    compare(tensors(shape), scale, prediction="epsilon", **STEP)


def test_layouts_of_every_kind():
    latents, cond, _ = tensors((2, 4, 6, 5))
    whole = torch.randn(2, 4, 5, 12)
    uncond = whole.transpose(2, 3)[:, :, ::2].requires_grad_()
    compare([latents, cond, uncond], 2.0, prediction="epsilon", **STEP)
    compare([uncond, latents, cond], 2.0, prediction="v_prediction", **STEP)
    expanded = torch.randn(1, 4, 1, 5, requires_grad=True).expand(2, 4, 6, 5)
    compare([expanded, cond, latents], 2.0, prediction="epsilon", **STEP)
    last = [
        t.detach().to(memory_format=torch.channels_last).requires_grad_()
        for t in tensors((2, 4, 6, 5))
    ]
    compare(last, torch.tensor([2.0, 3.0], requires_grad=True), prediction="epsilon", **STEP)
    prev, x0 = guided_ddim_step(*last, guidance_scale=2.0, **STEP)
    assert prev.is_contiguous(memory_format=torch.channels_last)
    assert x0.is_contiguous(memory_format=torch.channels_last)


def test_mixed_dtypes_keep_each_tensors_own():
    latents, cond, uncond = tensors((2, 33))
    compare(
        [latents, cond.detach().bfloat16().requires_grad_(), uncond],
        3.0,
        prediction="epsilon",
        **STEP,
    )


@pytest.mark.parametrize("used", [0, 1])
def test_one_output_alone_has_the_references_gradients(used):
    inputs = tensors((2, 9))
    for operation in (guided_ddim_step, reference):
        output = operation(*inputs, guidance_scale=2.5, prediction="epsilon", **STEP)[used]
        grads = torch.autograd.grad(output.square().sum(), inputs)
        if operation is guided_ddim_step:
            found = grads
    for value, true in zip(found, grads, strict=True):
        torch.testing.assert_close(value, true, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "flow_prediction"])
@pytest.mark.parametrize("guided", [True, False])
def test_gradcheck(prediction, guided):
    inputs = [t.detach().double().requires_grad_() for t in tensors((2, 2, 3))]
    scale = torch.tensor([0.3, 3.0], dtype=torch.float64, requires_grad=True)

    def operation(latents, cond, uncond, scale):
        return guided_ddim_step(
            latents, cond, uncond if guided else None, guidance_scale=scale,
            prediction=prediction, **STEP,
        )  # fmt: skip

    for tensor in () if guided else (inputs[2], scale):
        tensor.requires_grad_(False)
    assert torch.autograd.gradcheck(operation, (*inputs, scale))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "flow_prediction"])
def test_a_perfect_prediction_recovers_the_image_and_moves_along_the_noise(prediction):
    image, noise = (t.detach() for t in tensors((2, 50), count=2))
    a, a_prev = 0.2, 0.7
    latents = math.sqrt(a) * image + math.sqrt(1 - a) * noise
    v = math.sqrt(a) * noise - math.sqrt(1 - a) * image
    straight = noise - image
    predicted = {"epsilon": noise, "v_prediction": v, "flow_prediction": straight}[prediction]
    prev, x0 = guided_ddim_step(
        latents, predicted, predicted, guidance_scale=4.0,
        alpha_bar=a, alpha_bar_prev=a_prev, prediction=prediction,
    )  # fmt: skip
    torch.testing.assert_close(x0, image, rtol=1e-5, atol=1e-5)
    expected = math.sqrt(a_prev) * image + math.sqrt(1 - a_prev) * noise
    torch.testing.assert_close(prev, expected, rtol=1e-5, atol=1e-5)
    # Inversion: the same step with the two shares exchanged leads back.
    if prediction == "v_prediction":
        predicted = math.sqrt(a_prev) * noise - math.sqrt(1 - a_prev) * image
    back, _ = guided_ddim_step(
        prev, predicted, None, alpha_bar=a_prev, alpha_bar_prev=a, prediction=prediction
    )
    torch.testing.assert_close(back, latents, rtol=1e-5, atol=1e-5)


def test_agrees_with_the_ddim_scheduler_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=False)
    scheduler.set_timesteps(10)
    latents, cond, uncond = (t.detach() for t in tensors((2, 4, 3, 3)))
    guided = uncond + 3.0 * (cond - uncond)
    for timestep in (901, 401, 1):
        expected = scheduler.step(guided, timestep, latents)
        shares = scheduler.alphas_cumprod
        prev, x0 = guided_ddim_step(
            latents, cond, uncond, guidance_scale=3.0, alpha_bar=float(shares[timestep]),
            alpha_bar_prev=float(shares[max(timestep - 100, 0)]),
        )  # fmt: skip
        torch.testing.assert_close(prev, expected.prev_sample, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(x0, expected.pred_original_sample, rtol=1e-4, atol=1e-4)


def test_agrees_with_the_flow_scheduler_of_diffusers():
    """Its latents, (1 - sigma) x0 + sigma noise, are ours at another scale."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(5)
    latents, cond, uncond = (t.detach() for t in tensors((2, 4, 3, 3)))
    guided = uncond + 3.0 * (cond - uncond)
    scales = [math.hypot(1 - sigma, sigma) for sigma in scheduler.sigmas.tolist()]
    shares = [(1 - s) ** 2 / c**2 for s, c in zip(scheduler.sigmas.tolist(), scales, strict=True)]
    for index, timestep in enumerate(scheduler.timesteps):
        expected = scheduler.step(guided, timestep, latents).prev_sample
        prev, x0 = guided_ddim_step(
            latents / scales[index], cond, uncond, guidance_scale=3.0, alpha_bar=shares[index],
            alpha_bar_prev=shares[index + 1], prediction="flow_prediction",
        )  # fmt: skip
        torch.testing.assert_close(prev * scales[index + 1], expected, rtol=1e-5, atol=1e-5)
        straight = latents - scheduler.sigmas[index] * guided
        torch.testing.assert_close(x0, straight, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpointed_chain_has_the_same_gradients(reentrant):
    latents, weight, _ = tensors((2, 6))

    def step(z, weight):
        return guided_ddim_step(z, (z * weight).tanh(), z * 0.1, guidance_scale=2.0, **STEP)

    def chain(run):
        z, total = latents, 0.0
        for _ in range(3):
            z, x0 = run(step, z, weight)
            total = total + x0.square().sum()
        return torch.autograd.grad(total, (latents, weight)) if run is plain else backward(total)

    def plain(function, *arguments):
        return function(*arguments)

    def checkpointed(function, *arguments):
        return checkpoint(function, *arguments, use_reentrant=reentrant)

    def backward(total):
        total.backward()
        return latents.grad, weight.grad

    for value, true in zip(chain(checkpointed), chain(plain), strict=True):
        torch.testing.assert_close(value, true)


def test_inputs_are_left_as_they_were_and_results_repeat():
    inputs = [t.detach() for t in tensors((2, 40))]
    before = [t.clone() for t in inputs]
    first = guided_ddim_step(*inputs, guidance_scale=3.0, **STEP)
    second = guided_ddim_step(*inputs, guidance_scale=3.0, **STEP)
    assert all(torch.equal(a, b) for a, b in zip(before, inputs, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_wrong_arguments_are_named():
    latents, cond, uncond = tensors((2, 4))
    with pytest.raises(ValueError, match="one shape"):
        guided_ddim_step(latents, cond[:1], uncond, **STEP)
    with pytest.raises(ValueError, match=r"guidance_scale .* \[2\]"):
        guided_ddim_step(latents, cond, uncond, guidance_scale=torch.ones(3), **STEP)
    with pytest.raises(TypeError, match="with_text"):
        guided_ddim_step(latents, cond.int(), uncond, **STEP)
    with pytest.raises(ValueError, match="alpha_bar"):
        step_coefficients(1.2, 0.5, "epsilon")
    with pytest.raises(ValueError, match="alpha_bar is 0"):
        step_coefficients(0.0, 0.5, "epsilon")
    with pytest.raises(ValueError, match="'sample'"):
        step_coefficients(0.5, 0.5, "sample")
    assert step_coefficients(0.0, 0.5, "v_prediction").x0_n == -1.0
    assert step_coefficients(0.0, 0.5, "flow_prediction")[:2] == (1.0, -1.0)
