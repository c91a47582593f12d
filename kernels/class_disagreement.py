"""Maximal disagreement of two classifiers on a class, as one operation on their logits.

    values = -softmax(logits_a)[targets_a] + softmax(logits_b)[targets_b]

the loss whose minimum is an image that A calls the class and B does not (DiG-IN, CVPR 2024,
section 4.1). With p = softmax(l), dp_t / dl_j = p_t (1[j = t] - p_j), so the Triton backward needs
the logits, which exist anyway, and one log-sum-exp per row: no softmax is stored on the GPU.
"""

from __future__ import annotations

from typing import Any

import torch

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

# ---- Triton ----


@jit
def _log_sum_exp(row_ptr, classes, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    # One pass over the row with a running maximum (Milakov & Gimelshein 2018), for any K.
    largest = tl.full([], float("-inf"), tl.float32)
    total = tl.full([], 0.0, tl.float32)
    for start in range(0, classes, BLOCK):
        at = start + tl.arange(0, BLOCK)
        logits = tl.load(row_ptr + at, mask=at < classes, other=float("-inf")).to(tl.float32)
        new_largest = tl.maximum(largest, tl.max(logits, axis=0))
        shift = tl.where(new_largest == float("-inf"), 0.0, new_largest)
        total = total * tl.exp(largest - shift) + tl.sum(tl.exp(logits - shift), axis=0)
        largest = new_largest
    return largest + tl.log(total)


@jit
def _target_probability(row_ptr, target, log_sum, classes):  # type: ignore[no-untyped-def]
    # A target outside the classes reads nothing and answers NaN: checking it before would
    # make the host wait for the GPU.
    inside = (target >= 0) & (target < classes)
    logit = tl.load(row_ptr + target, mask=inside, other=float("nan")).to(tl.float32)
    return tl.exp(logit - log_sum)


@jit
def _forward_kernel(  # type: ignore[no-untyped-def]
    a_ptr, b_ptr, targets_a_ptr, targets_b_ptr, values_ptr, log_sum_a_ptr, log_sum_b_ptr,
    classes_a, classes_b, stride_a, stride_b, BLOCK: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(0).to(tl.int64)
    row_a = a_ptr + sample * stride_a
    row_b = b_ptr + sample * stride_b
    log_sum_a = _log_sum_exp(row_a, classes_a, BLOCK)
    log_sum_b = _log_sum_exp(row_b, classes_b, BLOCK)
    p_a = _target_probability(row_a, tl.load(targets_a_ptr + sample), log_sum_a, classes_a)
    p_b = _target_probability(row_b, tl.load(targets_b_ptr + sample), log_sum_b, classes_b)
    tl.store(values_ptr + sample, p_b - p_a)
    tl.store(log_sum_a_ptr + sample, log_sum_a)
    tl.store(log_sum_b_ptr + sample, log_sum_b)


@jit
def _row_gradient(  # type: ignore[no-untyped-def]
    row_ptr, grad_row_ptr, target, log_sum, factor, classes, BLOCK: tl.constexpr
):
    p_target = _target_probability(row_ptr, target, log_sum, classes)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = at < classes
    logits = tl.load(row_ptr + at, mask=mask, other=0.0).to(tl.float32)
    grad = factor * p_target * (tl.where(at == target, 1.0, 0.0) - tl.exp(logits - log_sum))
    tl.store(grad_row_ptr + at, grad.to(grad_row_ptr.dtype.element_ty), mask=mask)


@jit
def _backward_kernel(  # type: ignore[no-untyped-def]
    grad_ptr, a_ptr, b_ptr, targets_a_ptr, targets_b_ptr, log_sum_a_ptr, log_sum_b_ptr,
    grad_a_ptr, grad_b_ptr, classes_a, classes_b, stride_a, stride_b,
    WANT_A: tl.constexpr, WANT_B: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(0).to(tl.int64)
    factor = tl.load(grad_ptr + sample).to(tl.float32)
    if WANT_A:
        _row_gradient(
            a_ptr + sample * stride_a, grad_a_ptr + sample * classes_a,
            tl.load(targets_a_ptr + sample), tl.load(log_sum_a_ptr + sample),
            -factor, classes_a, BLOCK,
        )  # fmt: skip
    if WANT_B:
        _row_gradient(
            b_ptr + sample * stride_b, grad_b_ptr + sample * classes_b,
            tl.load(targets_b_ptr + sample), tl.load(log_sum_b_ptr + sample),
            factor, classes_b, BLOCK,
        )  # fmt: skip


def _rows(logits: torch.Tensor) -> torch.Tensor:
    return logits if logits.stride(1) == 1 else logits.contiguous()


def triton_forward(
    logits_a: torch.Tensor,
    logits_b: torch.Tensor,
    targets_a: torch.Tensor,
    targets_b: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(values, log-sum-exp of A, log-sum-exp of B), each [B] float32, by one kernel."""
    a, b = _rows(logits_a), _rows(logits_b)
    values, log_sum_a, log_sum_b = torch.empty(3, len(a), device=a.device, dtype=torch.float32)
    if len(a):
        with on_device(a):
            _forward_kernel[(len(a),)](
                a, b, targets_a.contiguous(), targets_b.contiguous(), values, log_sum_a, log_sum_b,
                a.shape[1], b.shape[1], a.stride(0), b.stride(0), BLOCK=BLOCK,
            )  # fmt: skip
    return values, log_sum_a, log_sum_b


def triton_backward(
    grad: torch.Tensor,
    logits_a: torch.Tensor,
    logits_b: torch.Tensor,
    targets_a: torch.Tensor,
    targets_b: torch.Tensor,
    log_sum_a: torch.Tensor,
    log_sum_b: torch.Tensor,
    want: tuple[bool, bool],
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Gradients by logits_a [B, K] and logits_b [B, K'] (those wanted), by one kernel."""
    a, b = _rows(logits_a), _rows(logits_b)
    grad_a = torch.empty(a.shape, dtype=a.dtype, device=a.device) if want[0] else None
    grad_b = torch.empty(b.shape, dtype=b.dtype, device=b.device) if want[1] else None
    widest = max(logits.shape[1] for logits, wanted in zip((a, b), want, strict=True) if wanted)
    if len(a):
        with on_device(a):
            _backward_kernel[(len(a), triton.cdiv(widest, BLOCK))](
                grad.contiguous(), a, b, targets_a.contiguous(), targets_b.contiguous(),
                log_sum_a, log_sum_b,
                a if grad_a is None else grad_a, b if grad_b is None else grad_b,
                a.shape[1], b.shape[1], a.stride(0), b.stride(0),
                WANT_A=want[0], WANT_B=want[1], BLOCK=BLOCK,
            )  # fmt: skip
    return grad_a, grad_b


# ---- PyTorch ----


def torch_forward(
    logits_a: torch.Tensor,
    logits_b: torch.Tensor,
    targets_a: torch.Tensor,
    targets_b: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(values [B], probabilities of A [B, K], probabilities of B [B, K']).

    A CPU's exp is dear and its memory near, so here the softmax is kept for backward.
    """
    dtype = accumulation_dtype(logits_a, logits_b)
    p_a = torch.softmax(logits_a, 1, dtype=dtype)
    p_b = torch.softmax(logits_b, 1, dtype=dtype)
    values = p_b.gather(1, targets_b[:, None].long()) - p_a.gather(1, targets_a[:, None].long())
    return values[:, 0], p_a, p_b


def _torch_gradient(
    grad: torch.Tensor, probabilities: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    index = targets[:, None].long()
    factor = grad[:, None] * probabilities.gather(1, index)
    return (probabilities * -factor).scatter_add_(1, index, factor)


def torch_backward(
    grad: torch.Tensor,
    logits_a: torch.Tensor,
    logits_b: torch.Tensor,
    targets_a: torch.Tensor,
    targets_b: torch.Tensor,
    p_a: torch.Tensor,
    p_b: torch.Tensor,
    want: tuple[bool, bool],
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """As triton_backward, from the probabilities that torch_forward gives."""
    grad_a = _torch_gradient(-grad, p_a, targets_a).to(logits_a.dtype) if want[0] else None
    grad_b = _torch_gradient(grad, p_b, targets_b).to(logits_b.dtype) if want[1] else None
    return grad_a, grad_b


def reference(
    logits_a: torch.Tensor,
    logits_b: torch.Tensor,
    targets_a: torch.Tensor,
    targets_b: torch.Tensor,
) -> torch.Tensor:
    """`disagreement` in plain autograd PyTorch, to compare with."""
    dtype = accumulation_dtype(logits_a, logits_b)
    rows = torch.arange(len(logits_a), device=logits_a.device)
    p_a = logits_a.to(dtype).softmax(1)[rows, targets_a]
    p_b = logits_b.to(dtype).softmax(1)[rows, targets_b]
    return -p_a + p_b


# ---- the operation ----


class ClassDisagreement(torch.autograd.Function):
    """Autograd's view of the operation; call `disagreement`."""

    @staticmethod
    def forward(
        ctx: Any,
        logits_a: torch.Tensor,
        logits_b: torch.Tensor,
        targets_a: torch.Tensor,
        targets_b: torch.Tensor,
        with_triton: bool,
    ) -> torch.Tensor:
        """values [B]."""
        ctx.with_triton = with_triton
        run = triton_forward if with_triton else torch_forward
        values, kept_a, kept_b = run(logits_a, logits_b, targets_a, targets_b)
        ctx.save_for_backward(logits_a, logits_b, targets_a, targets_b, kept_a, kept_b)
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of the two sets of logits."""
        run = triton_backward if ctx.with_triton else torch_backward
        a, b, targets_a, targets_b, kept_a, kept_b = ctx.saved_tensors
        want = (ctx.needs_input_grad[0], ctx.needs_input_grad[1])
        grads = run(grad, a, b, targets_a, targets_b, kept_a, kept_b, want)
        return *grads, None, None, None


def disagreement(
    logits_a: torch.Tensor,
    logits_b: torch.Tensor,
    targets_a: torch.Tensor,
    targets_b: torch.Tensor,
) -> torch.Tensor:
    """-p^A[targets_a] + p^B[targets_b] for each sample, differentiable once in the logits.

    logits_a: [B, K]; logits_b: [B, K'] (the classifiers may know different classes); float16,
    bfloat16 or float32 are calculated in float32, float64 in float64.
    targets_a, targets_b: [B] integers, the class as each classifier numbers it.
    Returns [B] in [-1, 1], float32 (float64 for float64 logits), lower where A sees the class and B
    does not. Raises ValueError or TypeError for other shapes and dtypes. A target that is no class
    raises on a CPU and gives NaN on a GPU.
    """
    check_floating(logits_a=logits_a, logits_b=logits_b)
    for name, logits in (("logits_a", logits_a), ("logits_b", logits_b)):
        if logits.ndim != 2 or logits.shape[1] == 0 or len(logits) != len(logits_a):
            raise ValueError(f"{name} has to be [{len(logits_a)}, K], not {tuple(logits.shape)}")
    for name, targets in (("targets_a", targets_a), ("targets_b", targets_b)):
        if targets.shape != logits_a.shape[:1]:
            raise ValueError(f"{name} has to be [{len(logits_a)}], not {tuple(targets.shape)}")
        if targets.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"{name} has to be int64 or int32, not {targets.dtype}")
        if targets.device != logits_a.device:
            raise ValueError(f"{name} is on {targets.device}, the logits on {logits_a.device}")
    with_triton = use_triton(logits_a, logits_b)
    values: torch.Tensor = ClassDisagreement.apply(  # type: ignore[no-untyped-call]
        logits_a, logits_b, targets_a, targets_b, with_triton
    )
    return values
