"""Adam (Kingma and Ba 2015) on a batch of problems, each with a state of its own."""

from collections.abc import Mapping

import torch
from torch import Tensor

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
        self.steps = 0
        self.first: dict[str, Tensor] = {}
        self.second: dict[str, Tensor] = {}

    def directions(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Mean of the gradients [B, ...] by their deviation, by name: what a step goes against."""
        self.steps += 1
        found = {}
        for name, gradient in gradients.items():
            if name not in self.first:
                self.first[name] = torch.zeros_like(gradient)
                self.second[name] = torch.zeros_like(gradient)
            first = self.first[name].lerp_(gradient, 1 - FIRST_DECAY)
            second = self.second[name].lerp_(gradient.square(), 1 - SECOND_DECAY)
            mean = first / (1 - FIRST_DECAY**self.steps)
            deviation = (second / (1 - SECOND_DECAY**self.steps)).sqrt()
            floor: Tensor | float = self.epsilon
            if self.relative_epsilon:
                axes = list(range(1, gradient.ndim))
                typical = deviation.square().mean(axes, keepdim=True).sqrt()
                floor = self.relative_epsilon * typical + self.epsilon
            found[name] = mean / (deviation + floor)
        return found

    def select(self, rows: Tensor) -> None:
        """Keep the state of some problems."""
        for state in (self.first, self.second):
            state.update({name: values[rows.to(values.device)] for name, values in state.items()})
