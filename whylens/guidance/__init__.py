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
    from whylens.guidance.optimiser import Problem, Solution, optimise
    from whylens.guidance.settings import GuidanceSettings

__all__ = [
    "ComponentObjective",
    "Disagreement",
    "GuidanceSettings",
    "Objective",
    "PixelDistance",
    "Problem",
    "Solution",
    "TargetClass",
    "counterfactual",
    "optimise",
]

_OBJECTIVES = ("ComponentObjective", "Disagreement", "Objective", "PixelDistance", "TargetClass")
__getattr__ = lazily(
    __name__,
    {
        **dict.fromkeys(_OBJECTIVES, "objectives"),
        **dict.fromkeys(("Problem", "Solution", "optimise"), "optimiser"),
        "GuidanceSettings": "settings",
        "counterfactual": "counterfactuals",
    },
)
