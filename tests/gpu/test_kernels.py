"""Each operation on a GPU, by its Triton kernels: values and gradients are the reference's."""

import importlib

import pytest
import torch

# bfloat16 and float16 references round after every operation, the kernels once.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 4e-2, torch.float16: 5e-3}
STEP = {"guidance_scale": 3.0, "alpha_bar": 0.35, "alpha_bar_prev": 0.62, "prediction": "epsilon"}


def drawn(*shapes, dtype, device="cuda"):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]


def guided_ddim(shape, dtype, device="cuda"):
    inputs = drawn(shape, shape, shape, dtype=dtype, device=device)
    return inputs, lambda f: lambda *tensors: f(*tensors, **STEP)


def class_disagreement(shape, dtype, device="cuda"):
    inputs = drawn(shape, shape, dtype=dtype, device=device)
    targets = [torch.arange(shape[0], device=device) % shape[1] for _ in range(2)]
    return inputs, lambda f: lambda *tensors: f(*tensors, *targets)


def group_norm_silu(shape, dtype, device="cuda", layout=torch.channels_last):
    x, weight, bias = drawn(shape, shape[1:2], shape[1:2], dtype=dtype, device=device)
    x = x.contiguous(memory_format=layout)
    return [x], lambda f: lambda x: f(x, weight, bias, groups=32)


def frozen_conv(shape, dtype, device="cuda"):
    out, size = shape[1] // 2, 3
    x, weight, bias = drawn(shape, (out, shape[1], size, size), (out,), dtype=dtype, device=device)
    weight = weight / (size * size * shape[1]) ** 0.5
    x = x.contiguous(memory_format=torch.channels_last)
    return [x], lambda f: lambda x: f(x, weight, bias, padding=(1, 1))


def geglu(shape, dtype, device="cuda"):
    wide = 8 * shape[-1]
    x, weight, bias = drawn(shape, (wide, shape[-1]), (wide,), dtype=dtype, device=device)
    weight = weight / shape[-1] ** 0.5
    return [x], lambda f: lambda x: f(x, weight, bias)


def cutouts(shape, dtype, device="cuda", views=4):
    (x,) = drawn(shape, dtype=dtype, device=device)
    generator = torch.Generator().manual_seed(1)
    sides = shape[-1] * (0.4 + 0.6 * torch.rand(views, shape[0], 1, generator=generator))
    corners = (shape[-1] - sides) * torch.rand(views, shape[0], 2, generator=generator)
    boxes = torch.cat([corners, sides, sides], -1).to(device)
    keys = torch.arange(shape[0], device=device)
    return [x], lambda f: lambda x: f(x, boxes, keys, size=shape[-1] // 2, noise=0.1)


# An operation of a module, its case, and shapes: those of Stable Diffusion's layers, and odd ones.
CASES = [
    ("guided_ddim", "guided_ddim_step", guided_ddim, (4, 4, 64, 64)),
    ("guided_ddim", "guided_ddim_step", guided_ddim, (3, 4, 5, 7)),
    ("class_disagreement", "disagreement", class_disagreement, (64, 1000)),
    ("class_disagreement", "disagreement", class_disagreement, (3, 21843)),
    ("group_norm_silu", "group_norm_silu", group_norm_silu, (2, 320, 64, 64)),
    ("group_norm_silu", "group_norm_silu", group_norm_silu, (1, 128, 256, 256)),
    ("group_norm_silu", "group_norm_silu", group_norm_silu, (3, 64, 5, 7)),
    ("frozen_conv", "frozen_conv", frozen_conv, (2, 320, 32, 32)),
    ("frozen_conv", "frozen_conv", frozen_conv, (1, 64, 5, 7)),
    ("geglu", "geglu", geglu, (2, 1024, 320)),
    ("geglu", "geglu", geglu, (1, 7, 64)),
    ("cutouts", "cutouts", cutouts, (2, 3, 512, 512)),
    ("cutouts", "cutouts", cutouts, (1, 3, 37, 37)),
]


def compare(module, operation, case, shape, dtype, device="cuda"):
    found = importlib.import_module(f"whylens.kernels.{module}")
    inputs, call = case(shape, dtype, device)
    answers = []
    for function in (getattr(found, operation), found.reference):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        out = call(function)(*leaves)
        outs = out if isinstance(out, tuple) else (out,)
        slopes = drawn(*[o.shape for o in outs], dtype=torch.float32, device=device)
        total = sum((o.float() * s).sum() for o, s in zip(outs, slopes, strict=True))
        answers.append([*outs, *torch.autograd.grad(total, leaves)])
    for value, true in zip(*answers, strict=True):
        assert value.device == inputs[0].device
        assert value.dtype == true.dtype
        size = max(float(true.detach().abs().max()), 1.0)
        tolerance = TOLERANCE[dtype]
        torch.testing.assert_close(value, true, rtol=tolerance, atol=tolerance * size)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize(
    ("module", "operation", "case", "shape"), CASES, ids=lambda v: v if isinstance(v, str) else None
)
def test_values_and_gradients_are_the_references(module, operation, case, shape, dtype):
    pytest.importorskip(f"whylens.kernels.{module}")
    compare(module, operation, case, shape, dtype)


@pytest.mark.two_gpus
@pytest.mark.parametrize(
    ("module", "operation", "case", "shape"),
    CASES[1::2],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_a_kernel_runs_where_its_tensors_are(module, operation, case, shape):
    """Tensors on the second GPU while the first is current."""
    pytest.importorskip(f"whylens.kernels.{module}")
    assert torch.cuda.current_device() == 0
    compare(module, operation, case, shape, torch.float32, "cuda:1")


def test_a_kernel_is_as_itself_the_second_time():
    """No atomics: the same bits every time."""
    found = importlib.import_module("whylens.kernels.class_disagreement")
    logits = [
        tensor.requires_grad_() for tensor in drawn((64, 1000), (64, 1000), dtype=torch.float32)
    ]
    targets = torch.arange(64, device="cuda")
    once, again = (
        torch.autograd.grad(found.disagreement(*logits, targets, targets).sum(), logits)
        for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
