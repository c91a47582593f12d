"""Which path an operation takes: its Triton kernels or its PyTorch code.

`WHYLENS_KERNELS=triton` or `torch` overrides the choice (tests run the Triton kernels on a CPU
with `TRITON_INTERPRET=1`, which has to be set before this module is imported).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

__all__ = [
    "accumulation_dtype",
    "check_floating",
    "jit",
    "on_device",
    "tl",
    "triton",
    "use_triton",
]

# Triton comes with torch on Linux only; elsewhere the kernels are plain functions, never called.
jit: Callable[[Any], Any]
try:
    import triton
    from triton import language as tl

    jit = triton.jit
except ImportError:
    triton = tl = None
    jit = staticmethod

ENVIRONMENT_VARIABLE = "WHYLENS_KERNELS"


def use_triton(*tensors: torch.Tensor | None) -> bool:
    """Whether these tensors go to the Triton kernels: by default where they are on a GPU.

    float64 always takes the PyTorch path, since the kernels calculate in float32. Raises ValueError
    where the environment variable names no path, or names triton and there is none.
    """
    choice = os.environ.get(ENVIRONMENT_VARIABLE, "")
    if choice not in ("", "triton", "torch"):
        raise ValueError(f"{ENVIRONMENT_VARIABLE}={choice!r}: choose 'triton' or 'torch'")
    if choice == "triton" and triton is None:
        raise ValueError(f"{ENVIRONMENT_VARIABLE}=triton, but triton is not installed")
    present = [tensor for tensor in tensors if tensor is not None]
    if choice == "torch" or any(tensor.dtype == torch.float64 for tensor in present):
        return False
    return choice == "triton" or (triton is not None and all(t.is_cuda for t in present))


def on_device(tensor: torch.Tensor) -> AbstractContextManager[Any]:
    """Where kernels of a tensor have to be launched: Triton takes the current device."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def accumulation_dtype(*tensors: torch.Tensor | None) -> torch.dtype:
    """The dtype to calculate in: float64 where a tensor is float64, else float32."""
    if any(tensor is not None and tensor.dtype == torch.float64 for tensor in tensors):
        return torch.float64
    return torch.float32


def check_floating(**tensors: torch.Tensor | None) -> None:
    """TypeError for a tensor that is not floating point, ValueError for mixed devices."""
    present = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    for name, tensor in present.items():
        if not tensor.is_floating_point():
            raise TypeError(f"{name} has to be floating point, not {tensor.dtype}")
    if len({tensor.device for tensor in present.values()}) > 1:
        found = ", ".join(f"{name} on {tensor.device}" for name, tensor in present.items())
        raise ValueError(f"all tensors have to be on one device: {found}")
