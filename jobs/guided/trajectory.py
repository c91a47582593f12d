"""What an optimisation passes through: a few images of each problem's way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from whylens.guidance.optimiser import Solution

FIELDS = [("trajectory", pa.list_(pa.binary())), ("trajectory_steps", pa.list_(pa.int32()))]
# Images that are kept of a way, the first and the last among them.
KEPT = 5


class Trajectory:
    """Collects the best image so far of each problem, as PNG, at a few steps of an optimisation.

    Pass `on_step` to the optimiser, then ask for each solution's `columns`. An image that stayed
    the best since the last look is not kept again.
    """

    def __init__(self, optimisation_steps: int) -> None:
        self._watched = {round(i * optimisation_steps / (KEPT - 1)) for i in range(KEPT)}
        # By identity, since a batch that is halved numbers its problems anew; holding the
        # solutions keeps identities from being used again.
        self._ways: dict[int, tuple[Solution, list[tuple[int, bytes]]]] = {}

    def on_step(self, step: int, solutions: Sequence[Solution]) -> None:
        """Look at the solutions of a batch after a step."""
        if step in self._watched:
            for solution in solutions:
                self._look(solution)

    def _look(self, solution: Solution) -> None:
        from whylens.jobs.images.pictures import png

        _, way = self._ways.setdefault(id(solution), (solution, []))
        if solution.image is not None and (not way or way[-1][0] != solution.best_step):
            way.append((solution.best_step, png(solution.image)))

    def columns(self, solution: Solution) -> dict[str, Any]:
        """The solution's row of `FIELDS`; its last image is the solution's own."""
        self._look(solution)
        _, way = self._ways[id(solution)]
        return {
            "trajectory": [image for _, image in way],
            "trajectory_steps": [step for step, _ in way],
        }
