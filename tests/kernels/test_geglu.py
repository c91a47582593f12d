import pytest
import torch

from whylens.kernels.geglu import geglu, reference

TOLERANCE = {torch.float32: 3e-6, torch.float64: 1e-12, torch.bfloat16: 3e-2, torch.float16: 3e-3}


def tensors(shape, width, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2 * width, shape[-1], generator=generator) / shape[-1] ** 0.5
    bias = torch.randn(2 * width, generator=generator)
    x = torch.randn(shape, generator=generator).to(dtype).requires_grad_()
    return x, weight.to(dtype), bias.to(dtype)


def compare(x, weight, bias):
    slopes = torch.randn(*x.shape[:-1], len(weight) // 2, dtype=torch.float64)
    found, expected = (
        (out, torch.autograd.grad((out.double() * slopes).sum(), x)[0])
        for out in (f(x, weight, bias) for f in (geglu, reference))
    )
    for value, true in zip(found, expected, strict=True):
        assert value.dtype == true.dtype
        tolerance = TOLERANCE[value.dtype]
        size = float(true.detach().abs().max()) if true.numel() else 1.0
        torch.testing.assert_close(value, true, rtol=tolerance, atol=tolerance * max(size, 1.0))


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_values_and_gradients_are_the_references(dtype):
    compare(*tensors((2, 9, 12), 24, dtype))


@pytest.mark.parametrize(
    ("shape", "width"), [((5,), 1), ((1, 3), 1025), ((3, 7, 1), 5), ((2, 0, 4), 8), ((33, 2), 1024)]
)
def test_odd_shapes(shape, width):
    compare(*tensors(shape, width))


def test_a_layout_that_is_not_contiguous():
    _, weight, bias = tensors((2, 9, 12), 8)
    compare(torch.randn(2, 12, 9).transpose(1, 2).requires_grad_(), weight, bias)


def test_gradcheck():
    x, weight, bias = tensors((3, 4), 5, torch.float64)
    assert torch.autograd.gradcheck(lambda x: geglu(x, weight, bias), x)


def test_it_keeps_its_input_alone():
    x, weight, bias = tensors((4, 6), 24)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        geglu(x, weight, bias)
    kept = {t.untyped_storage().data_ptr() for t in kept}
    assert kept == {t.untyped_storage().data_ptr() for t in (x, weight, bias)}


def test_wrong_arguments_are_named():
    x, weight, bias = tensors((4, 6), 24)
    with pytest.raises(ValueError, match=r"\[2 D, C\]"):
        geglu(x, weight[:, :4], bias)
    with pytest.raises(ValueError, match=r"\[2 D, C\]"):
        geglu(x, weight[:3], bias[:3])
    with pytest.raises(ValueError, match="requires_grad_"):
        geglu(x, weight.clone().requires_grad_(), bias)
