"""The planted classifiers: what each is trained on, and how it therefore fails."""

from dataclasses import dataclass
from typing import Literal

from whylens.planted.drawing.world import BACKGROUNDS, COMPANIONS, OBJECTS, Split

ABSENT = "none"
Target = Literal["object", "background", "companion"]
CLASS_NAMES: dict[Target, tuple[str, ...]] = {
    "object": OBJECTS,
    "background": BACKGROUNDS,
    "companion": (*COMPANIONS, ABSENT),
}


@dataclass(frozen=True)
class Recipe:
    """How a convolutional classifier of the planted world is trained.

    Attributes
    ----------
    split
        The split that it learns from: "linked" plants the links, "balanced" doesn't.
    target
        What it names: the object, the background, or the companion.
    absent
        Whether it also learns to say that no object is there (judges must).
    attack_radius
        L2 radius, in pixels of [0, 1], of the attack that it is trained against; 0 for none.
    decoded
        Whether half of what it sees went through the autoencoder and noise (judges of samples must
        not be fooled by the sampler's texture).
    """

    split: Split
    architecture: str = "plain"
    widths: tuple[int, ...] = (16, 32, 64, 96)
    target: Target = "object"
    absent: bool = False
    attack_radius: float = 0.0
    decoded: bool = False
    steps: int = 1500
    learning_rate: float = 3e-3
    seed: int = 0

    @property
    def class_names(self) -> tuple[str, ...]:
        names = CLASS_NAMES[self.target]
        return (*names, ABSENT) if self.absent else names


RECIPES: dict[str, Recipe] = {
    "biased": Recipe("linked", steps=2000),
    "balanced": Recipe("balanced", steps=3000),
    "robust": Recipe("balanced", attack_radius=1.0, steps=2000),
    "judge_object": Recipe("balanced", "residual", absent=True, decoded=True, steps=2000, seed=1),
    "judge_background": Recipe(
        "balanced", "residual", (12, 24, 48), "background", decoded=True, steps=500, seed=1
    ),
    "judge_companion": Recipe(
        "balanced", "residual", (12, 24, 48, 64), "companion", decoded=True, steps=1000, seed=1
    ),
}
