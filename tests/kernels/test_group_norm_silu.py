import sys

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from whylens.kernels.group_norm_silu import SMALL_ALONE, group_norm_silu, reference

# The package's attribute of this name is the function.
operation = sys.modules["whylens.kernels.group_norm_silu"]
TOLERANCE = {torch.float32: 3e-6, torch.float64: 1e-12, torch.bfloat16: 2e-2, torch.float16: 2e-3}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def tensors(shape, dtype=torch.float32, layout="contiguous", seed=0):
    """x, and a weight and a bias that are not one and zero."""
    generator = torch.Generator().manual_seed(seed)
    x = (torch.randn(shape, generator=generator) * 2 + 0.7).to(dtype)
    if len(shape) == 4:
        x = x.contiguous(memory_format=LAYOUTS[layout])
    weight, bias = (torch.randn(shape[1], generator=generator).to(dtype) for _ in range(2))
    return x.requires_grad_(), weight, bias


def compare(x, weight, bias, **options):
    slopes = torch.randn(x.shape, dtype=torch.float64)
    found, expected = (
        (out, torch.autograd.grad((out.double() * slopes).sum(), x)[0])
        for out in (f(x, weight, bias, **options) for f in (group_norm_silu, reference))
    )
    for value, true in zip(found, expected, strict=True):
        assert value.dtype == true.dtype
        tolerance = TOLERANCE[value.dtype]
        size = float(true.detach().abs().max()) if true.numel() else 1.0
        torch.testing.assert_close(value, true, rtol=tolerance, atol=tolerance * max(size, 1.0))


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_values_and_gradients_are_the_references(dtype, layout, silu):
    compare(*tensors((2, 12, 5, 7), dtype, layout), groups=3, silu=silu)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("shape", "groups"),
    [
        ((1, 1, 1, 2), 1),
        ((1, 40, 3, 3), 4),
        ((1, 60, 1, 1), 2),
        ((3, 4, 1, 33), 4),
        ((1, 130, 9, 2), 13),
        ((0, 8, 4, 4), 2),
    ],
)
def test_odd_shapes(shape, groups, layout):
    compare(*tensors(shape, layout=layout), groups=groups, eps=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("shape", "groups"), [((2, 12, 9, 11), 4), ((1, 130, 1, 5), 2), ((2, 3, 1, 70), 1)]
)
@pytest.mark.parametrize("silu", [True, False])
def test_large_groups_are_several_programs(monkeypatch, shape, groups, layout, silu):
    monkeypatch.setattr(operation, "_is_small", lambda groups, numbers: False)
    monkeypatch.setattr(operation, "TILE", 128)
    monkeypatch.setattr(operation, "PARTIALS", 64)
    compare(*tensors(shape, layout=layout), groups=groups, silu=silu)


def test_a_group_beyond_one_program():
    shape = (1, 2, 100, 90)
    assert shape[2] * shape[3] > SMALL_ALONE
    compare(*tensors(shape), groups=2)


def test_tokens_and_layouts_of_every_kind():
    x, weight, bias = tensors((2, 8, 15))
    compare(x, weight, bias, groups=4, silu=False)
    tokens = torch.randn(2, 15, 8).transpose(1, 2).requires_grad_()
    compare(tokens, weight, bias, groups=4, silu=False)
    assert group_norm_silu(tokens, weight, bias, groups=4).stride() == tokens.stride()
    compare(torch.randn(3, 8, requires_grad=True), weight, bias, groups=2)
    every_other = torch.randn(2, 8, 6, 10)[..., ::2].requires_grad_()
    compare(every_other, weight, bias, groups=2)
    expanded = torch.randn(1, 8, 1, 5).expand(2, 8, 6, 5).requires_grad_()
    compare(expanded, weight, bias, groups=2)


def test_channels_last_stays_channels_last_forward_and_backward():
    x, weight, bias = tensors((2, 8, 6, 5), layout="channels_last")
    out = group_norm_silu(x, weight, bias, groups=2)
    assert out.is_contiguous(memory_format=torch.channels_last)
    # A gradient in another layout, too.
    (grad,) = torch.autograd.grad(out, x, torch.randn(2, 8, 6, 5))
    assert grad.is_contiguous(memory_format=torch.channels_last)


def test_far_from_zero_nothing_is_lost():
    x, weight, bias = tensors((2, 8, 16, 16))
    x = (x.detach() + 1000).requires_grad_()
    out = group_norm_silu(x, weight, bias, groups=2)
    true = reference(x.double(), weight.double(), bias.double(), groups=2)
    torch.testing.assert_close(out.double(), true, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("silu", [True, False])
def test_gradcheck(silu):
    x, weight, bias = tensors((2, 6, 2, 3), torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: group_norm_silu(x, weight, bias, groups=2, silu=silu), x
    )


def test_it_keeps_its_input_and_the_statistics_alone():
    x, weight, bias = tensors((2, 8, 16, 16))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        group_norm_silu(x, weight, bias, groups=4)
    sizes = sorted(t.numel() for t in kept if t is not weight and t is not bias)
    assert sizes == [8, 8, x.numel()]


def test_it_can_be_recomputed_by_checkpointing():
    x, weight, bias = tensors((2, 8, 4, 4))

    def run(x):
        return group_norm_silu(x, weight, bias, groups=2).square()

    plain = torch.autograd.grad(run(x).sum(), x)
    again = torch.autograd.grad(checkpoint(run, x, use_reentrant=False).sum(), x)
    torch.testing.assert_close(plain, again)


def test_the_operators_of_torch_are_what_they_say():
    x, weight, bias = tensors((2, 8, 4, 4), layout="channels_last")
    x = x.detach()
    forward, backward = operation._forward_operator, operation._backward_operator
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(forward, (x, weight, bias, 2, 1e-5, True), test_utils=checks)
    _, mean, rstd = forward(x, weight, bias, 2, 1e-5, True)
    given = (torch.ones_like(x), x, mean, rstd, weight, bias, 2, True)
    torch.library.opcheck(backward, given, test_utils=checks)


def test_wrong_arguments_are_named():
    x, weight, bias = tensors((2, 8, 4, 4))
    with pytest.raises(ValueError, match="multiple of 3"):
        group_norm_silu(x, weight, bias, groups=3)
    with pytest.raises(ValueError, match="one for each channel"):
        group_norm_silu(x, weight[:4], bias, groups=2)
    with pytest.raises(ValueError, match="requires_grad_"):
        group_norm_silu(x, weight.clone().requires_grad_(), bias, groups=2)
    with pytest.raises(TypeError, match="floating point"):
        group_norm_silu(x.detach().int(), weight, bias, groups=2)
