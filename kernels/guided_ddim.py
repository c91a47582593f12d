"""Classifier-free guidance, the prediction of x0 and a deterministic DDIM step, as one operation.

With n = u + s (c - u) (Ho & Salimans 2022, eq. 6; c, u the conditional and unconditional
predictions, s the guidance scale), a = alpha_bar and a' = alpha_bar_prev (Song et al. 2021, eq. 12
with eta = 0; Salimans & Ho 2022, appendix D for v; for flows n = eps - x0, Liu et al. 2023):

    epsilon:          x0 = (z - sqrt(1 - a) n) / sqrt(a)      eps = n
    v_prediction:     x0 = sqrt(a) z - sqrt(1 - a) n          eps = sqrt(a) n + sqrt(1 - a) z
    flow_prediction:  x0 = (z - sqrt(1 - a) n) / c            eps = (sqrt(a) n + z) / c
                      c = sqrt(a) + sqrt(1 - a)
    z' = sqrt(a') x0 + sqrt(1 - a') eps

All are linear in z and n: x0 = x0_z z + x0_n n and z' = prev_z z + prev_n n, with four numbers per
step that are calculated once, in double precision. So forward is one pass over memory, backward
another, and nothing is kept for backward (c - u is needed only for a gradient of s).
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

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

Prediction = Literal["epsilon", "v_prediction", "flow_prediction"]
BLOCK = 1024


class Coefficients(NamedTuple):
    """x0 = x0_z z + x0_n n and z' = prev_z z + prev_n n."""

    x0_z: float
    x0_n: float
    prev_z: float
    prev_n: float


def step_coefficients(
    alpha_bar: float, alpha_bar_prev: float, prediction: Prediction
) -> Coefficients:
    """The four numbers of a step (see the module's docstring).

    alpha_bar, alpha_bar_prev: cumulative signal shares in [0, 1]; alpha_bar > 0 for epsilon.
    Raises ValueError outside these ranges and for an unknown prediction.
    """
    if not (0 <= alpha_bar <= 1 and 0 <= alpha_bar_prev <= 1):
        raise ValueError(f"alpha_bar has to be in [0, 1], not {alpha_bar} and {alpha_bar_prev}")
    signal, noise = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
    signal_prev, noise_prev = math.sqrt(alpha_bar_prev), math.sqrt(1 - alpha_bar_prev)
    if prediction == "epsilon":
        if alpha_bar == 0:
            raise ValueError("epsilon prediction says nothing of x0 where alpha_bar is 0")
        x0_z, x0_n, eps_z, eps_n = 1 / signal, -noise / signal, 0.0, 1.0
    elif prediction == "v_prediction":
        x0_z, x0_n, eps_z, eps_n = signal, -noise, noise, signal
    elif prediction == "flow_prediction":
        both = signal + noise
        x0_z, x0_n, eps_z, eps_n = 1 / both, -noise / both, 1 / both, signal / both
    else:
        raise ValueError(
            "prediction has to be 'epsilon', 'v_prediction' or 'flow_prediction', not "
            f"{prediction!r}"
        )
    return Coefficients(
        x0_z=x0_z,
        x0_n=x0_n,
        prev_z=signal_prev * x0_z + noise_prev * eps_z,
        prev_n=signal_prev * x0_n + noise_prev * eps_n,
    )


# ---- Triton ----


@jit
def _forward_kernel(  # type: ignore[no-untyped-def]
    latents_ptr, cond_ptr, uncond_ptr, scales_ptr, prev_ptr, x0_ptr,
    scale, x0_z, x0_n, prev_z, prev_n, size,
    GUIDED: tl.constexpr, PER_SAMPLE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(1)
    within = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = within < size
    at = sample.to(tl.int64) * size + within
    latents = tl.load(latents_ptr + at, mask=mask).to(tl.float32)
    guided = tl.load(cond_ptr + at, mask=mask).to(tl.float32)
    if GUIDED:
        if PER_SAMPLE:
            scale = tl.load(scales_ptr + sample)
        uncond = tl.load(uncond_ptr + at, mask=mask).to(tl.float32)
        guided = uncond + scale * (guided - uncond)
    prev = prev_z * latents + prev_n * guided
    x0 = x0_z * latents + x0_n * guided
    tl.store(prev_ptr + at, prev.to(prev_ptr.dtype.element_ty), mask=mask)
    tl.store(x0_ptr + at, x0.to(x0_ptr.dtype.element_ty), mask=mask)


@jit
def _backward_kernel(  # type: ignore[no-untyped-def]
    grad_prev_ptr, grad_x0_ptr, difference_ptr, scales_ptr,
    grad_latents_ptr, grad_cond_ptr, grad_uncond_ptr, partial_ptr,
    scale, x0_z, x0_n, prev_z, prev_n, size,
    GUIDED: tl.constexpr, PER_SAMPLE: tl.constexpr,
    HAS_PREV: tl.constexpr, HAS_X0: tl.constexpr, SCALE_GRAD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(1)
    within = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = within < size
    at = sample.to(tl.int64) * size + within
    grad_latents = tl.zeros([BLOCK], dtype=tl.float32)
    grad_guided = tl.zeros([BLOCK], dtype=tl.float32)
    if HAS_PREV:
        grad_prev = tl.load(grad_prev_ptr + at, mask=mask, other=0.0).to(tl.float32)
        grad_latents += prev_z * grad_prev
        grad_guided += prev_n * grad_prev
    if HAS_X0:
        grad_x0 = tl.load(grad_x0_ptr + at, mask=mask, other=0.0).to(tl.float32)
        grad_latents += x0_z * grad_x0
        grad_guided += x0_n * grad_x0
    tl.store(grad_latents_ptr + at, grad_latents.to(grad_latents_ptr.dtype.element_ty), mask=mask)
    grad_cond = grad_guided
    if GUIDED:
        if PER_SAMPLE:
            scale = tl.load(scales_ptr + sample)
        grad_uncond = (1.0 - scale) * grad_guided
        grad_cond = scale * grad_guided
        tl.store(grad_uncond_ptr + at, grad_uncond.to(grad_uncond_ptr.dtype.element_ty), mask=mask)
    tl.store(grad_cond_ptr + at, grad_cond.to(grad_cond_ptr.dtype.element_ty), mask=mask)
    if SCALE_GRAD:
        # One partial sum a block, summed afterwards: the same result every time, as atomics
        # would not give.
        difference = tl.load(difference_ptr + at, mask=mask, other=0.0)
        tl.store(
            partial_ptr + sample * tl.num_programs(0) + tl.program_id(0),
            tl.sum(difference * grad_guided, axis=0),
        )


def _layout(latents: torch.Tensor) -> torch.memory_format:
    channels_last = latents.ndim == 4 and latents.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format


def triton_forward(
    latents: torch.Tensor,
    with_text: torch.Tensor,
    without_text: torch.Tensor | None,
    scale: float | torch.Tensor,
    step: Coefficients,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(prev_latents, x0) by one kernel; a channels-last batch stays channels-last."""
    layout = _layout(latents)
    latents = latents.contiguous(memory_format=layout)
    with_text = with_text.contiguous(memory_format=layout)
    uncond = with_text if without_text is None else without_text.contiguous(memory_format=layout)
    prev = torch.empty_like(latents)
    x0 = torch.empty_like(latents)
    if latents.numel() == 0:
        return prev, x0
    scales = scale.float().contiguous() if isinstance(scale, torch.Tensor) else None
    size = latents[0].numel()
    with on_device(latents):
        _forward_kernel[(triton.cdiv(size, BLOCK), len(latents))](
            latents, with_text, uncond, latents if scales is None else scales, prev, x0,
            scale if scales is None else 1.0, *step, size,
            GUIDED=without_text is not None, PER_SAMPLE=scales is not None, BLOCK=BLOCK,
        )  # fmt: skip
    return prev, x0


def triton_backward(
    grad_prev: torch.Tensor | None,
    grad_x0: torch.Tensor | None,
    difference: torch.Tensor | None,
    scale: float | torch.Tensor,
    step: Coefficients,
    dtypes: tuple[torch.dtype, torch.dtype, torch.dtype | None],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Gradients by latents, with_text, without_text and the guidance scale [B], by one kernel.

    difference: with_text - without_text in float32 where the scale's gradient is wanted.
    """
    like = grad_prev if grad_prev is not None else grad_x0
    assert like is not None, "one of the two outputs has a gradient"
    layout = _layout(like)
    grad_prev, grad_x0, difference = (
        None if tensor is None else tensor.contiguous(memory_format=layout)
        for tensor in (grad_prev, grad_x0, difference)
    )
    like = like.contiguous(memory_format=layout)
    grad_latents = torch.empty_like(like, dtype=dtypes[0])
    grad_cond = torch.empty_like(like, dtype=dtypes[1])
    guided = dtypes[2] is not None
    grad_uncond = torch.empty_like(like, dtype=dtypes[2]) if guided else None
    size = like[0].numel() if len(like) else 0
    blocks = triton.cdiv(size, BLOCK)
    partial = None
    if difference is not None:
        partial = torch.zeros(len(like), blocks, device=like.device, dtype=torch.float32)
    if like.numel():
        scales = scale.float().contiguous() if isinstance(scale, torch.Tensor) else None
        with on_device(like):
            _backward_kernel[(blocks, len(like))](
                like if grad_prev is None else grad_prev, like if grad_x0 is None else grad_x0,
                like if difference is None else difference,
                like if scales is None else scales,
                grad_latents, grad_cond, grad_cond if grad_uncond is None else grad_uncond,
                grad_cond if partial is None else partial,
                scale if scales is None else 1.0, *step, size,
                GUIDED=guided, PER_SAMPLE=scales is not None, HAS_PREV=grad_prev is not None,
                HAS_X0=grad_x0 is not None, SCALE_GRAD=partial is not None, BLOCK=BLOCK,
            )  # fmt: skip
    return grad_latents, grad_cond, grad_uncond, None if partial is None else partial.sum(1)


# ---- PyTorch ----


def _per_sample(scale: float | torch.Tensor, like: torch.Tensor) -> float | torch.Tensor:
    if isinstance(scale, torch.Tensor):
        return scale.to(like.dtype).view(-1, *(1,) * (like.ndim - 1))
    return scale


def torch_forward(
    latents: torch.Tensor,
    with_text: torch.Tensor,
    without_text: torch.Tensor | None,
    scale: float | torch.Tensor,
    step: Coefficients,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(prev_latents, x0) with three temporaries at most, in float32 (float64 for float64)."""
    dtype = accumulation_dtype(latents, with_text, without_text)
    z, guided = latents.to(dtype), with_text.to(dtype)
    if without_text is not None:
        uncond = without_text.to(dtype)
        guided = (guided - uncond).mul_(_per_sample(scale, uncond)).add_(uncond)
    prev = (z * step.prev_z).add_(guided, alpha=step.prev_n)
    x0 = (z * step.x0_z).add_(guided, alpha=step.x0_n)
    return prev.to(latents.dtype), x0.to(latents.dtype)


def torch_backward(
    grad_prev: torch.Tensor | None,
    grad_x0: torch.Tensor | None,
    difference: torch.Tensor | None,
    scale: float | torch.Tensor,
    step: Coefficients,
    dtypes: tuple[torch.dtype, torch.dtype, torch.dtype | None],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """As triton_backward."""
    dtype = accumulation_dtype(grad_prev, grad_x0, difference)
    if grad_prev is None or grad_x0 is None:
        only, by_z, by_n = (
            (grad_x0, step.x0_z, step.x0_n)
            if grad_prev is None
            else (grad_prev, step.prev_z, step.prev_n)
        )
        assert only is not None, "one of the two outputs has a gradient"
        only = only.to(dtype)
        grad_latents, grad_guided = only * by_z, only * by_n
    else:
        grad_prev, grad_x0 = grad_prev.to(dtype), grad_x0.to(dtype)
        grad_latents = (grad_prev * step.prev_z).add_(grad_x0, alpha=step.x0_z)
        grad_guided = (grad_prev * step.prev_n).add_(grad_x0, alpha=step.x0_n)
    grad_scale = None
    if difference is not None:
        grad_scale = (difference * grad_guided).unsqueeze(-1).flatten(1).sum(1)
    if dtypes[2] is None:
        return grad_latents.to(dtypes[0]), grad_guided.to(dtypes[1]), None, grad_scale
    grad_cond = grad_guided * _per_sample(scale, grad_guided)
    grad_uncond = grad_guided.sub_(grad_cond)
    return (
        grad_latents.to(dtypes[0]),
        grad_cond.to(dtypes[1]),
        grad_uncond.to(dtypes[2]),
        grad_scale,
    )


def reference(
    latents: torch.Tensor,
    with_text: torch.Tensor,
    without_text: torch.Tensor | None,
    *,
    guidance_scale: float | torch.Tensor = 1.0,
    alpha_bar: float,
    alpha_bar_prev: float,
    prediction: Prediction,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The textbook form of `guided_ddim_step` in plain autograd PyTorch, to compare with."""
    dtype = accumulation_dtype(latents, with_text, without_text)
    z, guided = latents.to(dtype), with_text.to(dtype)
    if without_text is not None:
        uncond = without_text.to(dtype)
        guided = uncond + _per_sample(guidance_scale, uncond) * (guided - uncond)
    if prediction == "epsilon":
        x0 = (z - math.sqrt(1 - alpha_bar) * guided) / math.sqrt(alpha_bar)
        eps = guided
    elif prediction == "flow_prediction":
        # In the flow's own latents: (1 - t) x0 + t eps, with a velocity of eps - x0.
        signal, noise = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
        time, own = noise / (signal + noise), z / (signal + noise)
        x0, eps = own - time * guided, own + (1 - time) * guided
    else:
        x0 = math.sqrt(alpha_bar) * z - math.sqrt(1 - alpha_bar) * guided
        eps = math.sqrt(alpha_bar) * guided + math.sqrt(1 - alpha_bar) * z
    prev = math.sqrt(alpha_bar_prev) * x0 + math.sqrt(1 - alpha_bar_prev) * eps
    return prev.to(latents.dtype), x0.to(latents.dtype)


# ---- the operation ----


class GuidedDdimStep(torch.autograd.Function):
    """Autograd's view of the operation; call `guided_ddim_step`."""

    @staticmethod
    def forward(
        ctx: Any,
        latents: torch.Tensor,
        with_text: torch.Tensor,
        without_text: torch.Tensor | None,
        scale: float | torch.Tensor,
        step: Coefficients,
        with_triton: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(prev_latents, x0)."""
        ctx.set_materialize_grads(False)
        ctx.step, ctx.with_triton = step, with_triton
        ctx.dtypes = (
            latents.dtype, with_text.dtype, None if without_text is None else without_text.dtype
        )  # fmt: skip
        ctx.scale = scale if isinstance(scale, float) else None
        scales = None if isinstance(scale, float) else scale
        difference = None
        if ctx.needs_input_grad[3] and without_text is not None:
            dtype = accumulation_dtype(latents, with_text, without_text)
            difference = with_text.to(dtype) - without_text.to(dtype)
        ctx.save_for_backward(scales, difference)
        run = triton_forward if with_triton else torch_forward
        return run(latents, with_text, without_text, scale, step)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, grad_prev: torch.Tensor | None, grad_x0: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, ...]:
        """Gradients of latents, with_text, without_text and a guidance scale that is a tensor."""
        if grad_prev is None and grad_x0 is None:
            return None, None, None, None, None, None
        scales, difference = ctx.saved_tensors
        run = triton_backward if ctx.with_triton else torch_backward
        scale = ctx.scale if scales is None else scales
        *grads, grad_scale = run(grad_prev, grad_x0, difference, scale, ctx.step, ctx.dtypes)
        if grad_scale is not None:
            grad_scale = grad_scale.to(scales.dtype)
        return *grads, grad_scale, None, None


def guided_ddim_step(
    latents: torch.Tensor,
    with_text: torch.Tensor,
    without_text: torch.Tensor | None,
    *,
    guidance_scale: float | torch.Tensor = 1.0,
    alpha_bar: float,
    alpha_bar_prev: float,
    prediction: Prediction = "epsilon",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Guidance, x0 and one deterministic DDIM step, differentiable once in all tensors.

    latents z, with_text c, without_text u: [B, ...] of one shape, any layout; float16, bfloat16 or
    float32 are calculated in float32, float64 in float64. Without u there is no guidance: n = c,
    whatever the scale.
    guidance_scale: a number, or one for each sample, [B]; 1 means the conditional prediction.
    alpha_bar, alpha_bar_prev: the schedule's cumulative signal shares at this step and the next, in
    [0, 1]. Going up in noise (alpha_bar_prev < alpha_bar) is DDIM inversion.
    Returns (prev_latents, x0), both [B, ...] in the dtype of latents. The equations and their
    sources are in the module's docstring. Raises ValueError or TypeError for other shapes, ranges
    and dtypes.
    """
    check_floating(latents=latents, with_text=with_text, without_text=without_text)
    shapes = {tuple(t.shape) for t in (latents, with_text, without_text) if t is not None}
    if len(shapes) > 1 or latents.ndim < 1:
        raise ValueError(f"latents and predictions have to be of one shape [B, ...]: {shapes}")
    scale: float | torch.Tensor
    if isinstance(guidance_scale, torch.Tensor):
        if guidance_scale.shape != latents.shape[:1]:
            raise ValueError(
                f"guidance_scale has to be a number or [{len(latents)}] (one for each sample), "
                f"not {tuple(guidance_scale.shape)}"
            )
        check_floating(latents=latents, guidance_scale=guidance_scale)
        scale = guidance_scale
    else:
        scale = float(guidance_scale)
    step = step_coefficients(alpha_bar, alpha_bar_prev, prediction)
    with_triton = use_triton(latents, with_text, without_text)
    result: tuple[torch.Tensor, torch.Tensor] = GuidedDdimStep.apply(  # type: ignore[no-untyped-call]
        latents, with_text, without_text, scale, step, with_triton
    )
    return result
