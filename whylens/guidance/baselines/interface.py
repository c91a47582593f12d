"""What all baselines take and give back, as `whylens.guidance.counterfactuals.counterfactual`."""

from collections.abc import Sequence

from torch import Tensor

from whylens.guidance.objectives import Objective
from whylens.guidance.optimiser import OnStep, Solution


def check_batch(
    images: Tensor,
    prompts_before: Sequence[str],
    prompts_after: Sequence[str],
    targets: Tensor,
    seeds: Sequence[int] | None,
) -> Sequence[int]:
    """The seeds, 0 to B - 1 where none are given.

    Raises
    ------
    ValueError
        If prompts, targets or seeds are not as many as the images.
    """
    seeds = range(len(images)) if seeds is None else seeds
    for name, given in (
        ("prompts_before", prompts_before),
        ("prompts_after", prompts_after),
        ("targets", targets),
        ("seeds", seeds),
    ):
        if len(given) != len(images):
            raise ValueError(f"{name} has {len(given)} entries for {len(images)} images")
    return seeds


class Ways:
    """The solutions of a batch while they are made, each image in place of the one before.

    Starts with the images before, [B, 3, H, W]. A problem whose image stops being finite has
    failed, and keeps no image.
    """

    def __init__(self, before: Tensor, objective: Objective, on_step: OnStep | None) -> None:
        self.solutions = [Solution(image, image) for image in before]
        self._on_step = on_step
        losses, _ = objective.value_and_gradient(before)
        self._step = 0
        self.add(before, losses)

    def add(self, images: Tensor, losses: Tensor) -> None:
        """The next images [B, 3, H, W], and what they lose, [B]."""
        for solution, image, loss in zip(self.solutions, images, losses.tolist(), strict=True):
            if solution.failed is not None:
                continue
            if not bool(image.isfinite().all()):
                solution.image = None
                solution.failed = f"the image was not finite at step {self._step}"
                continue
            solution.loss_trajectory.append(loss)
            solution.image, solution.best_step = image, len(solution.loss_trajectory) - 1
        if self._on_step is not None:
            self._on_step(self._step, self.solutions)
        self._step += 1
