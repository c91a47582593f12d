"""What an optimisation passes through: a few images of each problem's trajectory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from whylens.jobs.images.pictures import png

if TYPE_CHECKING:
    from whylens.guidance.solutions import Solution
    from whylens.guidance.state import State

# Images that are kept of a trajectory, the first and the last among them.
KEPT = 5


class Trajectory:
    """Collects the best image so far of each problem, as PNG, at a few steps of an optimisation.

    An image that stayed the best since the last look is not kept again.
    """

    def __init__(self, steps: int) -> None:
        self._watched = {round(i * steps / (KEPT - 1)) for i in range(KEPT)}
        self._images: dict[int, list[tuple[int, bytes]]] = {}

    def look(self, state: State, solutions: Sequence[Solution]) -> None:
        """Look at the solutions of a batch after a state was added to them."""
        # Finished problems are looked at in the end, by `images`.
        for row in state.rows if state.step in self._watched else ():
            if state.step == 0:
                self._images[row] = []
            self._keep(row, solutions[row])

    def images(self, row: int, solution: Solution) -> list[tuple[int, bytes]]:
        """(step, image) of a problem, the last one its solution's own."""
        self._keep(row, solution)
        return self._images[row]

    def _keep(self, row: int, solution: Solution) -> None:
        kept = self._images.setdefault(row, [])
        if solution.image is not None and (not kept or kept[-1][0] != solution.best_step):
            kept.append((solution.best_step, png(solution.image)))
