"""What all baselines take and give back, as `whylens.guidance.counterfactuals.counterfactual`."""

from collections.abc import Sequence

from torch import Tensor

from whylens.guidance.optimiser import Solution


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


def solved(before: Tensor, after: Tensor, losses: Sequence[Tensor]) -> list[Solution]:
    """Solutions whose image is the last one: before, after [B, 3, H, W], losses of [B] a step.

    A problem whose numbers stopped being finite has failed, and keeps no image.
    """
    solutions = []
    for row, (start, image) in enumerate(zip(before, after, strict=True)):
        trajectory = [float(values[row]) for values in losses]
        if bool(image.isfinite().all()):
            solutions.append(Solution(image, start, trajectory, len(trajectory) - 1))
        else:
            reason = "the image was not finite at the end of the chain"
            solutions.append(Solution(None, start, trajectory, failed=reason))
    return solutions
