"""Guided generation: objectives, views, the optimiser, counterfactuals."""

from typing import TYPE_CHECKING

from whylens.lazy import lazily

if TYPE_CHECKING:
    from whylens.guidance.counterfactuals import counterfactual
    from whylens.guidance.objectives import (
        ComponentObjective,
        Disagreement,
        Objective,
        PixelDistance,
        TargetClass,
    )
    from whylens.guidance.optimiser import optimise
    from whylens.guidance.problems import Problems
    from whylens.guidance.settings import GuidanceSettings
    from whylens.guidance.solutions import Solution, solve

__all__ = [
    "ComponentObjective",
    "Disagreement",
    "GuidanceSettings",
    "Objective",
    "PixelDistance",
    "Problems",
    "Solution",
    "TargetClass",
    "counterfactual",
    "optimise",
    "solve",
]

_OBJECTIVES = ("ComponentObjective", "Disagreement", "Objective", "PixelDistance", "TargetClass")
__getattr__ = lazily(
    __name__,
    {
        **dict.fromkeys(_OBJECTIVES, "objectives"),
        **dict.fromkeys(("Solution", "solve"), "solutions"),
        "GuidanceSettings": "settings",
        "Problems": "problems",
        "counterfactual": "counterfactuals",
        "optimise": "optimiser",
    },
)
