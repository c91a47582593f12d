"""What became of problems: the best image of each optimisation, and how its loss went."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import Tensor

from whylens.diffusion.sampler import Sampler
from whylens.guidance.objectives import Objective
from whylens.guidance.optimiser import optimise
from whylens.guidance.problems import Problems
from whylens.guidance.settings import GuidanceSettings
from whylens.guidance.state import State


@dataclass
class Solution:
    """What became of a problem.

    image, start_image
        The best image of the trajectory by its plain loss, and the one before any optimisation,
        [3, S, S] in [0, 1]; None where not even that could be made.
    loss_trajectory
        The plain (un-augmented) loss of each image, the start's first.
    best_step
        Index of `image` in the trajectory.
    failed
        Why the problem ended early, None where it didn't.
    mask, attention_steps, blend_start, blend_end
        Of a real image: where it could change, [1, S, S] in [0, 1]; how many steps kept the
        image's cross-attention; the first step after which latents outside of the mask were its
        own, and the first after which they no longer were.
    """

    image: Tensor | None = None
    start_image: Tensor | None = None
    loss_trajectory: list[float] = field(default_factory=list)
    best_step: int = 0
    failed: str | None = None
    mask: Tensor | None = None
    attention_steps: int | None = None
    blend_start: int | None = None
    blend_end: int | None = None


class Solutions:
    """The solutions of a batch while they are made: the best image so far of each problem."""

    def __init__(self, problems: Problems) -> None:
        paste, injection = problems.paste, problems.conditioning.injection
        blend = problems.conditioning.blend
        self.each = [
            Solution(
                mask=None if paste is None else paste.masks[row],
                attention_steps=None if injection is None else int(injection.until[row]),
                blend_start=None if blend is None else int(blend.start[row]),
                blend_end=None if blend is None else int(blend.end[row]),
            )
            for row in range(len(problems))
        ]

    def add(self, state: State) -> None:
        """The optimisation's next state. At step 0 a problem begins, or begins again."""
        for row, image, loss in zip(state.rows, state.images, state.losses.tolist(), strict=True):
            solution = self.each[row]
            if state.step == 0:
                solution.start_image, solution.loss_trajectory = image, []
            losses = solution.loss_trajectory
            if not losses or loss < losses[solution.best_step]:
                solution.image, solution.best_step = image, len(losses)
            losses.append(loss)
        for row, reason in state.failed.items():
            self.each[row].failed = reason


class Latest(Solutions):
    """The latest image of each problem, of methods that lead to one image.

    They show the images before at step 0. A problem that fails keeps no image.
    """

    def __init__(self, count: int) -> None:
        self.each = [Solution() for _ in range(count)]

    def add(self, state: State) -> None:
        """The method's next state."""
        for row, image, loss in zip(state.rows, state.images, state.losses.tolist(), strict=True):
            solution = self.each[row]
            if state.step == 0:
                solution.start_image = image
            if solution.failed is None:
                solution.image, solution.best_step = image, len(solution.loss_trajectory)
                solution.loss_trajectory.append(loss)
        for row, reason in state.failed.items():
            if self.each[row].failed is None:
                self.each[row].failed, self.each[row].image = reason, None


def followed(solutions: Solutions, states: Iterable[State]) -> list[Solution]:
    """The solutions at the end of an optimisation."""
    for state in states:
        solutions.add(state)
    return solutions.each


def solve(
    sampler: Sampler, problems: Problems, objective: Objective, settings: GuidanceSettings
) -> list[Solution]:
    """Optimise a batch of problems to its end; the best image of each."""
    return followed(Solutions(problems), optimise(sampler, problems, objective, settings))
