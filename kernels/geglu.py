"""GEGLU with a frozen projection (Shazeer 2020), which keeps its input and not the projection.

    (h, g) = x W^T + b      y = h gelu(g)      gelu(g) = g Phi(g), Phi the normal distribution's

The projection [..., 2 D] is eight times as large as x in the U-Nets of Stable Diffusion, where D is
four times x's width: kept with gelu(g), as PyTorch does, it is a third of all that a U-Net call
holds. Backward makes it again, by a matrix product that is 7 % of the arithmetic of a U-Net's
forward and backward, and

    dL/dh = dL/dy gelu(g)      dL/dg = dL/dy h (Phi(g) + g phi(g))      dL/dx = (dL/dh, dL/dg) W

in one pass over it. The matrix products are PyTorch's own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from whylens.kernels.backend import (
    accumulation_dtype,
    check_floating,
    jit,
    on_device,
    tl,
    triton,
    use_triton,
)

BLOCK = 1024
ROOT_HALF = 0.7071067811865476
# 1 / sqrt(2 pi)
DENSITY = 0.3989422804014327


# ---- Triton ----


@jit
def _forward_kernel(projected_ptr, out_ptr, width, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = column < width
    hidden = tl.load(projected_ptr + row * 2 * width + column, mask=mask, other=0.0)
    gate = tl.load(projected_ptr + row * 2 * width + width + column, mask=mask, other=0.0)
    gate = gate.to(tl.float32)
    below = 0.5 * (1.0 + tl.erf(gate * 0.7071067811865476))
    out = hidden.to(tl.float32) * gate * below
    tl.store(out_ptr + row * width + column, out.to(out_ptr.dtype.element_ty), mask=mask)


@jit
def _backward_kernel(grad_ptr, projected_ptr, out_ptr, width, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """`out` may be `projected`: each program reads what it writes first."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = column < width
    grad = tl.load(grad_ptr + row * width + column, mask=mask, other=0.0).to(tl.float32)
    at = row * 2 * width + column
    hidden = tl.load(projected_ptr + at, mask=mask, other=0.0).to(tl.float32)
    gate = tl.load(projected_ptr + at + width, mask=mask, other=0.0).to(tl.float32)
    below = 0.5 * (1.0 + tl.erf(gate * 0.7071067811865476))
    density = 0.3989422804014327 * tl.exp(-0.5 * gate * gate)
    by_hidden = grad * gate * below
    by_gate = grad * hidden * (below + gate * density)
    tl.store(out_ptr + at, by_hidden.to(out_ptr.dtype.element_ty), mask=mask)
    tl.store(out_ptr + at + width, by_gate.to(out_ptr.dtype.element_ty), mask=mask)


def triton_forward(projected: torch.Tensor) -> torch.Tensor:
    """h gelu(g) [M, D] of a contiguous projection [M, 2 D], by one kernel."""
    rows, width = projected.shape[0], projected.shape[1] // 2
    out = projected.new_empty((rows, width))
    if out.numel():
        with on_device(projected):
            _forward_kernel[(rows, triton.cdiv(width, BLOCK))](projected, out, width, BLOCK=BLOCK)
    return out


def triton_backward(grad: torch.Tensor, projected: torch.Tensor) -> torch.Tensor:
    """The gradient by the projection [M, 2 D], written over it; grad [M, D] is contiguous."""
    rows, width = grad.shape
    if grad.numel():
        with on_device(projected):
            _backward_kernel[(rows, triton.cdiv(width, BLOCK))](
                grad, projected, projected, width, BLOCK=BLOCK
            )
    return projected


# ---- PyTorch ----


def torch_forward(projected: torch.Tensor) -> torch.Tensor:
    """As triton_forward."""
    hidden, gate = projected.chunk(2, dim=1)
    return F.gelu(gate) * hidden


def torch_backward(grad: torch.Tensor, projected: torch.Tensor) -> torch.Tensor:
    """As triton_backward, in a tensor of its own."""
    hidden, gate = projected.chunk(2, dim=1)
    return torch.cat([grad * F.gelu(gate), torch.ops.aten.gelu_backward(grad * hidden, gate)], 1)


def reference(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The textbook form of `geglu` in plain autograd PyTorch, to compare with."""
    dtype = accumulation_dtype(x)
    hidden, gate = (x.to(dtype) @ weight.to(dtype).T + bias.to(dtype)).chunk(2, dim=-1)
    below = 0.5 * (1 + torch.erf(gate * ROOT_HALF))
    return (hidden * gate * below).to(x.dtype)


# ---- the operation ----


class Geglu(torch.autograd.Function):
    """Autograd's view of the operation; call `geglu`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        with_triton: bool,
    ) -> torch.Tensor:
        """[M, D] of x [M, C]."""
        ctx.save_for_backward(x, weight, bias)
        ctx.with_triton = with_triton
        run = triton_forward if with_triton else torch_forward
        return run(F.linear(x, weight, bias))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The gradient of x alone."""
        x, weight, bias = ctx.saved_tensors
        run = triton_backward if ctx.with_triton else torch_backward
        by_projection = run(grad.contiguous(), F.linear(x, weight, bias))
        return by_projection @ weight, None, None, None


def geglu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """A frozen projection and GEGLU, differentiable once in x.

    x: [..., C]; weight: [2 D, C], the first D rows for h, the others for g; bias: [2 D] or None;
    all of one floating dtype. Half precision is calculated in float32 between the matrix products.
    Returns [..., D]. The equations are in the module's docstring. Raises ValueError or TypeError
    for other shapes and dtypes, and for weights that are to be trained.
    """
    check_floating(x=x, weight=weight, bias=bias)
    if weight.ndim != 2 or x.ndim < 1 or x.shape[-1] != weight.shape[1] or weight.shape[0] % 2:
        raise ValueError(
            f"x has to be [..., C] and weight [2 D, C], not {tuple(x.shape)}, {tuple(weight.shape)}"
        )
    if weight.requires_grad or (bias is not None and bias.requires_grad):
        raise ValueError("weight and bias get no gradient here: call requires_grad_(False)")
    # A compiler fuses these few operations with their neighbours, which a kernel of ours forbids.
    with_triton = not torch.compiler.is_compiling() and use_triton(x, weight)
    rows: torch.Tensor = Geglu.apply(  # type: ignore[no-untyped-call]
        x.reshape(-1, x.shape[-1]), weight, bias, with_triton
    )
    return rows.view(*x.shape[:-1], weight.shape[0] // 2)
