"""Systematic errors of a classifier: guessed from generated images, confirmed on drawn ones.

Images on which the classifier says a class and a better one does not are made; judges say what they
show. What most of a class's images share is a pattern, that is, a guess: "scenes that show this are
called that". Fresh drawings, of a seed that the search never saw, confirm it or not.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.stats import fisher_exact

from whylens.classifiers.classifier import Classifier
from whylens.images.tensors import to_tensor
from whylens.planted.checks.judges import Seen, probabilities
from whylens.planted.drawing.world import (
    BACKGROUNDS,
    COMPANIONS,
    OBJECTS,
    Scene,
    draw,
    sample_scene,
)

CONFIRMING_SEED = 77_001
SCENES = 500
# A pattern is confirmed if its error rate is at least this, this many times the base rate, and the
# test, corrected for the number of patterns, says that chance is less likely than this.
AT_LEAST = 0.05
TIMES = 2.0
SIGNIFICANCE = 0.01


@dataclass(frozen=True)
class Pattern:
    """Scenes with these parts are thought to be called `called`; None: any."""

    called: str
    object: str | None = None
    background: str | None = None
    companion: str | None = None

    @property
    def parts(self) -> dict[str, str]:
        named = {"object": self.object, "background": self.background, "companion": self.companion}
        return {kind: name for kind, name in named.items() if name is not None}


@dataclass(frozen=True)
class Confirmation:
    """Rates at which drawn scenes are called the class: with the pattern, and without it.

    p_value is Fisher's exact test, one-sided, times the number of patterns tested (Bonferroni);
    other_rate is the better classifier's rate on the scenes with the pattern.
    """

    pattern: Pattern
    rate: float
    base_rate: float
    other_rate: float
    p_value: float
    images: int

    @property
    def confirmed(self) -> bool:
        return self.rate >= max(AT_LEAST, TIMES * self.base_rate) and self.p_value < SIGNIFICANCE

    def record(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {**asdict(self), "confirmed": self.confirmed}


def pattern_of(called: int, seen: Seen) -> Pattern | None:
    """What more than half of the images show that are called class `called`; None: nothing.

    Images that do show the class are no errors, and don't count.
    """
    wrong = seen.objects != called
    if wrong.sum() < 2:
        return None
    shared = {
        kind: _majority(values[wrong], names)
        for kind, values, names in (
            ("object", seen.objects, OBJECTS),
            ("background", seen.backgrounds, BACKGROUNDS),
            ("companion", seen.companions, COMPANIONS),
        )
    }
    pattern = Pattern(OBJECTS[called], **shared)
    return pattern if pattern.parts else None


def _majority(values: np.ndarray, names: Sequence[str]) -> str | None:
    numbers, counts = np.unique(values, return_counts=True)
    best = int(counts.argmax())
    if numbers[best] < 0 or counts[best] * 2 <= len(values):
        return None
    return names[int(numbers[best])]


def confirm(
    patterns: Sequence[Pattern], classifier: Classifier, other: Classifier
) -> list[Confirmation]:
    """Each pattern on drawn scenes against scenes of the same kind without it."""
    found = []
    for pattern in patterns:
        with_it = scenes_with(pattern, SCENES)
        without = scenes_without(pattern, SCENES)
        said, said_without = (_calls(classifier, pattern, s) for s in (with_it, without))
        table = [
            [int(said.sum()), len(said) - int(said.sum())],
            [int(said_without.sum()), len(said_without) - int(said_without.sum())],
        ]
        p_value = float(fisher_exact(table, alternative="greater").pvalue)
        found.append(
            Confirmation(
                pattern,
                float(said.mean()),
                float(said_without.mean()),
                float(_calls(other, pattern, with_it).mean()),
                min(1.0, p_value * len(patterns)),
                SCENES,
            )
        )
    return found


def scenes_with(pattern: Pattern, count: int) -> list[Scene]:
    """Scenes that show the pattern but not the class that it is called; the rest is drawn."""
    plain = (sample_scene("unlinked", CONFIRMING_SEED, index) for index in range(100 * count))
    own = (
        replace(
            scene,
            object=pattern.object or scene.object,
            background=pattern.background or scene.background,
            companion=pattern.companion or scene.companion,
        )
        for scene in plain
    )
    return _first(own, lambda scene: scene.object != pattern.called, count)


def scenes_without(pattern: Pattern, count: int) -> list[Scene]:
    """Scenes of any other class without the pattern: at least one of its parts is missing."""
    plain = (sample_scene("unlinked", CONFIRMING_SEED + 1, index) for index in range(100 * count))

    def fits(scene: Scene) -> bool:
        shows = all(getattr(scene, kind) == name for kind, name in pattern.parts.items())
        return scene.object != pattern.called and not shows

    return _first(plain, fits, count)


def _first(scenes: Any, fits: Any, count: int) -> list[Scene]:
    kept: list[Scene] = []
    for scene in scenes:
        if fits(scene):
            kept.append(scene)
            if len(kept) == count:
                break
    return kept


def _calls(classifier: Classifier, pattern: Pattern, scenes: Sequence[Scene]) -> np.ndarray:
    """Which scenes the classifier calls the pattern's class, [N]."""
    images = torch.stack([to_tensor(draw(scene).image) for scene in scenes])
    said = probabilities(classifier, images).argmax(1)
    calls: np.ndarray = (said == OBJECTS.index(pattern.called)).numpy()
    return calls
