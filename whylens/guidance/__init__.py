"""Guided generation: objectives, views, the optimiser, counterfactuals."""

from typing import TYPE_CHECKING, Any

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

_HOMES = {
    "counterfactual": "counterfactuals",
    "GuidanceSettings": "settings",
    **dict.fromkeys(("Problem", "Solution", "optimise"), "optimiser"),
}


def __getattr__(name: str) -> Any:
    # Loaded on first use, so that importing the package does not import torch.
    if name in __all__:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'objectives')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
