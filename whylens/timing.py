"""How long something takes on a device that works behind the caller's back."""

import time
from collections.abc import Callable
from typing import Any

import torch


def now(device: torch.device) -> float:
    """Seconds of a clock, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def best_of(call: Callable[[], Any], device: torch.device, times: int = 3) -> float:
    """Seconds of a call, the best of some; one before them is not timed."""
    call()
    seconds = []
    for _ in range(times):
        began = now(device)
        call()
        seconds.append(now(device) - began)
    return min(seconds)
