"""How a loaded network runs: the options that samplers' and classifiers' names take."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from whylens.compiled import PAYS_AFTER
from whylens.errors import UsageError

CHOICES = ("auto", "on", "off")
OPTIONS = ("kernels", "channels_last", "compile")


@dataclass(frozen=True)
class Execution:
    """What is done to a network so that it takes less time and memory, results but for rounding.

    kernels
        Layers keep little for backward (`whylens.frozen`, `whylens.diffusion.frozen`).
    channels_last
        Images and maps lie in memory place by place, as a GPU's convolutions want them.
    compile_after
        Differentiated calls of a network after which its blocks are compiled (`whylens.compiled`);
        None: never.
    """

    kernels: bool
    channels_last: bool
    compile_after: int | None


PLAIN = Execution(kernels=False, channels_last=False, compile_after=None)


def execution(name: str, options: Mapping[str, str], device: str | torch.device) -> Execution:
    """What a name's options say; `auto`, the default, is on where the network is on a GPU.

    On a CPU none gains time enough, and the memory that counts is a GPU's. `compile` waits there
    until a network has been differentiated so often that it pays; on: at once, off: never.

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
    waiting = 0 if options.get("compile") == "on" else PAYS_AFTER
    return Execution(
        kernels=chosen["kernels"],
        channels_last=chosen["channels_last"],
        compile_after=waiting if chosen["compile"] else None,
    )
