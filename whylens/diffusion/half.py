"""Gradients through a float16 network that neither vanish nor overflow."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from whylens.batch import beside


class _Out(torch.autograd.Function):
    """Identity; backward divides each problem's gradient by its largest entry, and notes it."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, sizes: dict[str, Tensor]) -> Tensor:
        ctx.sizes = sizes
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        size = gradient.flatten(1).abs().amax(1)
        # A gradient of zeros stays one; one that is not finite stays visible.
        size = torch.where(size > 0, size, torch.ones_like(size))
        ctx.sizes["largest"] = size
        return gradient / beside(size, gradient), None


class _In(torch.autograd.Function):
    """Identity; backward multiplies by what `_Out` divided by."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, sizes: dict[str, Tensor]) -> Tensor:
        ctx.sizes = sizes
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * beside(ctx.sizes["largest"], gradient), None


def in_range(network: Callable[[Tensor, Tensor], Tensor], latents: Tensor, text: Tensor) -> Tensor:
    """network(latents, text) in float32, [B, ...] each, its gradients scaled on their way through.

    float16 knows nothing below 6e-8, where gradients by pixels often are. Backward is linear: each
    problem's gradient goes through the network with 1 as its largest entry, and gets its size back
    in float32. The network's parameters must be frozen.
    """
    sizes: dict[str, Tensor] = {}
    out = network(_In.apply(latents, sizes), _In.apply(text, sizes))  # type: ignore[no-untyped-call]
    scaled: Tensor = _Out.apply(out.to(latents.dtype), sizes)  # type: ignore[no-untyped-call]
    return scaled
