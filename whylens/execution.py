"""How a loaded network runs: the options that samplers' and classifiers' names take."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from whylens.errors import UsageError

CHOICES = ("auto", "on", "off")
OPTIONS = ("kernels", "channels_last")


@dataclass(frozen=True)
class Execution:
    """What is done to a network so that it takes less time and memory, results but for rounding.

    kernels
        Layers keep little for backward (`whylens.frozen`, `whylens.diffusion.frozen`).
    channels_last
        Images and maps lie in memory place by place, as a GPU's convolutions want them.
    """

    kernels: bool
    channels_last: bool


def execution(name: str, options: Mapping[str, str], device: str | torch.device) -> Execution:
    """What a name's options say; `auto`, the default, is on where the network is on a GPU.

    On a CPU neither gains time, and the memory that counts is a GPU's.

    Raises
    ------
    UsageError
        If an option is none of auto, on and off.
    """
    on_gpu = torch.device(device).type == "cuda"
    chosen = {}
    for option in OPTIONS:
        choice = options.get(option, "auto")
        if choice not in CHOICES:
            raise UsageError(f"{name}: {option} is one of {', '.join(CHOICES)}, not {choice!r}")
        chosen[option] = choice == "on" or (choice == "auto" and on_gpu)
    return Execution(**chosen)
