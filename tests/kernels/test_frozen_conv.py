import pytest
import torch
from torch.nn import functional as F

from whylens.kernels.frozen_conv import frozen_conv, reference

OPTIONS = [
    {},
    {"padding": (1, 1)},
    {"stride": (2, 2), "padding": (1, 0)},
    {"stride": (2, 3), "padding": (2, 1), "dilation": (2, 1)},
    {"padding": (1, 1), "groups": 2},
]


def tensors(dtype=torch.float32, groups=1, layout=torch.contiguous_format):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 6, 11, 9, generator=generator).to(dtype).contiguous(memory_format=layout)
    weight = torch.randn(4, 6 // groups, 3, 3, generator=generator).to(dtype)
    bias = torch.randn(4, generator=generator).to(dtype)
    return x.requires_grad_(), weight.contiguous(memory_format=layout), bias


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_values_and_gradients_are_pytorchs_own(options, dtype, layout):
    x, weight, bias = tensors(dtype, options.get("groups", 1), layout)
    for b in (bias, None):
        out, true = (f(x, weight, b, **options) for f in (frozen_conv, reference))
        assert torch.equal(out, true)
        assert out.stride() == true.stride()
        slopes = torch.randn_like(true)
        (found,), (expected,) = (torch.autograd.grad(y, x, slopes) for y in (out, true))
        torch.testing.assert_close(found, expected)


def test_gradcheck():
    x, weight, bias = tensors(torch.float64)
    x = x[:1, :, :5, :4].detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: frozen_conv(x, weight, bias, padding=(1, 1)), x)


def kept_by(call):
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        call()
    return kept


def test_it_keeps_the_weights_alone_where_pytorch_keeps_the_input():
    x, weight, bias = tensors()
    assert [t is weight for t in kept_by(lambda: frozen_conv(x, weight, bias))] == [True]
    assert any(t.shape == x.shape for t in kept_by(lambda: reference(x, weight, bias)))


def test_a_frozen_linear_layer_keeps_no_input_anyway():
    x, weight = torch.randn(2, 5, 6, requires_grad=True), torch.randn(4, 6)
    bias = torch.randn(4)
    kept = kept_by(lambda: F.linear(x, weight, bias))
    assert {t.untyped_storage().data_ptr() for t in kept} == {weight.untyped_storage().data_ptr()}


def test_weights_that_are_to_be_trained_are_refused():
    x, weight, bias = tensors()
    with pytest.raises(ValueError, match="requires_grad_"):
        frozen_conv(x, weight.requires_grad_(), bias)
