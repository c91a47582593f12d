"""What an optimisation shows after a step, and what the host is told of each problem."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class State:
    """What an optimisation shows of the problems that have taken so many steps.

    step
        0 before any optimisation.
    rows
        [b]: which problems of the batch the images are of; those that are finished are missing.
    images
        [b, 3, S, S] in [0, 1].
    losses
        [b], of the images as they are, without views; on the CPU.
    failed
        Why problems ended early since the state before, by row.
    """

    step: int
    rows: Sequence[int]
    images: Tensor
    losses: Tensor
    failed: Mapping[int, str] = field(default_factory=dict)


class Told(NamedTuple):
    """What the host knows of a problem after so many steps."""

    row: int
    step: int
    loss: float
    finite: bool
    sound: bool

    @property
    def failed(self) -> str | None:
        """Why the problem ends early, if it does."""
        if not self.sound:
            return f"the gradient was not finite at step {self.step - 1}"
        if not self.finite:
            return f"the image or its loss was not finite at step {self.step}"
        return None


def told(
    rows: Sequence[int], steps: Sequence[int], losses: Tensor, finite: Tensor, sound: Tensor
) -> list[Told]:
    """Of problems [b] their losses, whether image and loss are finite, and whether the gradient of
    the step before was: all in one transfer."""
    seen = torch.stack([losses.double(), finite.double(), sound.double()], 1).tolist()
    return [
        Told(row, step, loss, bool(good), bool(right))
        for row, step, (loss, good, right) in zip(rows, steps, seen, strict=True)
    ]


def states(known: Sequence[Told], images: Tensor) -> Iterator[State]:
    """The states of problems [b] and their images [b, 3, S, S]: one of each number of steps."""
    for step in sorted({one.step for one in known}):
        here = [place for place, one in enumerate(known) if one.step == step]
        good = [place for place in here if known[place].failed is None]
        shown = images
        if len(good) < len(known):
            shown = images[torch.tensor(good, dtype=torch.int64, device=images.device)]
        losses = torch.tensor([known[place].loss for place in good], dtype=torch.float64)
        failed = {known[place].row: why for place in here if (why := known[place].failed)}
        yield State(step, [known[place].row for place in good], shown, losses, failed)
