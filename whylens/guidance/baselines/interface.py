"""What all baselines take and give, as `whylens.guidance.counterfactuals.counterfactual_problems`.

They are generators of states, from the images before to the images after:
`followed(Latest(len(images)), method(...))` has the solutions.
"""

from collections.abc import Sequence

from torch import Tensor

from whylens.guidance.checking import as_many
from whylens.guidance.state import State


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
    as_many(
        images,
        prompts_before=prompts_before,
        prompts_after=prompts_after,
        targets=targets,
        seeds=seeds,
    )
    return seeds


def shown(step: int, images: Tensor, losses: Tensor) -> State:
    """The state of a batch that stays whole; images that are not finite have failed."""
    finite = images.flatten(1).isfinite().all(1)
    kept = finite.nonzero()[:, 0]
    reason = f"the image was not finite at step {step}"
    failed = {row: reason for row, good in enumerate(finite.tolist()) if not good}
    return State(step, kept.tolist(), images[kept], losses[kept], failed)
