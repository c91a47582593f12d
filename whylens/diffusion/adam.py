"""Adam (Kingma and Ba 2015) on a batch of problems, each with a state of its own."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from whylens.batch import beside, lengthened

FIRST_DECAY, SECOND_DECAY = 0.9, 0.999


class Adam:
    """The direction of each step; the caller has rates and variables.

    Parameters
    ----------
    epsilon
        As Adam's.
    relative_epsilon
        Added to it as a part of the problem's own root mean square gradient: entries far below that
        are rounding noise, which plain Adam would blow up to full steps (and make batches differ).
    """

    def __init__(self, *, epsilon: float = 1e-8, relative_epsilon: float = 0.0) -> None:
        self.epsilon, self.relative_epsilon = epsilon, relative_epsilon
        self.steps: Tensor | None = None
        self.first: dict[str, Tensor] = {}
        self.second: dict[str, Tensor] = {}

    def directions(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Mean of the gradients [B, ...] by their deviation, by name: what a step goes against."""
        if self.steps is None:
            some = next(iter(gradients.values()))
            self.steps = torch.zeros(len(some), dtype=torch.float64, device=some.device)
            self.first = {name: torch.zeros_like(of) for name, of in gradients.items()}
            self.second = {name: torch.zeros_like(of) for name, of in gradients.items()}
        self.steps = self.steps + 1
        found = {}
        for name, gradient in gradients.items():
            first = self.first[name].lerp_(gradient, 1 - FIRST_DECAY)
            second = self.second[name].lerp_(gradient.square(), 1 - SECOND_DECAY)
            mean = first / beside(1 - FIRST_DECAY**self.steps, gradient).to(gradient)
            grown = beside(1 - SECOND_DECAY**self.steps, gradient).to(gradient)
            deviation = (second / grown).sqrt()
            floor: Tensor | float = self.epsilon
            if self.relative_epsilon:
                axes = list(range(1, gradient.ndim))
                typical = deviation.square().mean(axes, keepdim=True).sqrt()
                floor = self.relative_epsilon * typical + self.epsilon
            found[name] = mean / (deviation + floor)
        return found

    def select(self, rows: Tensor) -> None:
        """Keep the state of some problems."""
        self._each(lambda values: values[rows.to(values.device)])

    def join(self, count: int) -> None:
        """More problems, behind those that are there, which have taken no step."""
        self._each(lambda values: lengthened(values, count))

    def _each(self, made: Callable[[Tensor], Tensor]) -> None:
        if self.steps is not None:
            self.steps = made(self.steps)
            self.first = {name: made(values) for name, values in self.first.items()}
            self.second = {name: made(values) for name, values in self.second.items()}
