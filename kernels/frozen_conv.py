"""A convolution whose weights never train, which keeps nothing of its input.

Backward by the input asks for the weights and the input's size alone. PyTorch keeps the input all
the same, for a gradient of the weights that nobody wants: in a Stable Diffusion decoder that is
over a third of all that is held. The convolution itself is PyTorch's own (cuDNN on a GPU), forward
and backward.

A linear layer needs no such thing: PyTorch does not keep its input where the weights are frozen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from whylens.kernels.backend import check_floating


def reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> torch.Tensor:
    """As `frozen_conv`, by plain autograd PyTorch."""
    return F.conv2d(x, weight, bias, tuple(stride), tuple(padding), tuple(dilation), groups)


class FrozenConv(torch.autograd.Function):
    """Autograd's view of the operation; call `frozen_conv`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
    ) -> torch.Tensor:
        """[N, C', H', W']."""
        ctx.save_for_backward(weight)
        ctx.size, ctx.options = x.shape, (stride, padding, dilation, groups)
        out = torch.conv2d(x, weight, bias, stride, padding, dilation, groups)
        last = out.is_contiguous(memory_format=torch.channels_last) and not out.is_contiguous()
        ctx.layout = torch.channels_last if last else torch.contiguous_format
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The gradient of x alone."""
        (weight,) = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.options
        # Backward asks for an input, of which it reads size and layout: an empty one, for as long.
        sized = torch.empty(
            ctx.size, dtype=grad.dtype, device=grad.device, memory_format=ctx.layout
        )
        found = torch.ops.aten.convolution_backward(
            grad, sized, weight, None, stride, padding, dilation, False, (0, 0), groups,
            (True, False, False),
        )[0]  # fmt: skip
        return found, None, None, None, None, None, None


def frozen_conv(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> torch.Tensor:
    """A two-dimensional convolution with frozen weights, differentiable once in x.

    x: [N, C, H, W], any layout.
    weight: [C', C / groups, h, w]; bias: [C'] or None; both of x's dtype.
    stride, padding (zeros), dilation: (height, width).
    Returns [N, C', H', W'] as torch.nn.functional.conv2d does, in its layout. Raises ValueError or
    TypeError for mixed devices, other dtypes, and weights that are to be trained.
    """
    check_floating(x=x, weight=weight, bias=bias)
    if weight.requires_grad or (bias is not None and bias.requires_grad):
        raise ValueError("weight and bias get no gradient here: call requires_grad_(False)")
    result: torch.Tensor = FrozenConv.apply(  # type: ignore[no-untyped-call]
        x, weight, bias, tuple(stride), tuple(padding), tuple(dilation), groups
    )
    return result
