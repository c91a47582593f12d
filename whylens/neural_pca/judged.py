"""Every class of a collection in memory: found, mined, judged, with verdicts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from whylens.neural_pca.components import ClassComponents, class_components
from whylens.neural_pca.ranking import DEFAULT, Asked, Evidence, Reference, judge, with_verdicts
from whylens.neural_pca.sufficiency import Mined, best_two, mine, strata_of

Array = NDArray[np.float64]
Features = NDArray[np.floating[Any]]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Judged:
    """One class: its components, what was mined for them, and the evidence."""

    components: ClassComponents
    mined: Mined
    evidence: Evidence

    @property
    def suspicious(self) -> list[int]:
        """The suspicious components."""
        return np.flatnonzero(self.evidence.suspicious).tolist()


def judge_classes(
    head: tuple[Array, Array],
    images: tuple[Features, Labels],
    pool: tuple[Features, Labels],
    classes: Sequence[int],
    *,
    top: int = 32,
    mined: int = 120,
    asked: Asked = DEFAULT,
    false_discoveries: float = 0.05,
    activation: Literal["softmax", "sigmoid"] = "softmax",
) -> list[Judged]:
    """Find, mine and judge the components of some classes, as the components job does.

    Parameters
    ----------
    head
        Weight [K, D] and bias [K].
    images
        Features [N, D] and labels [N] of the images that are explained.
    pool
        Features [S, D] and labels [S] (negative: none) of those that are mined.
    activation
        How logits become probabilities: sigmoid for a multi-label head, each class by itself.
    """

    def probabilities_of(rows: Features) -> Array:
        logits = rows @ weight.T + bias
        p: Array = expit(logits) if activation == "sigmoid" else softmax(logits, axis=1)
        return p

    weight, bias = head
    features, labels = images
    rows, pool_labels = pool
    probabilities = probabilities_of(rows)
    best = best_two(probabilities)
    found = []
    for k in classes:
        inside, without = labels == k, pool_labels != k
        of_class = features[inside]
        components = class_components(k, weight[k], bias[k], of_class, top)
        taken = mine(components, rows, probabilities, pool_labels, mined)
        p = probabilities[without, k]
        seen = Reference(
            of_class.mean(0),
            None if inside.all() else features[~inside].mean(0),
            float(probabilities_of(of_class)[:, k].mean()),
            float(p.mean()),
            rows[without],
            p,
            strata_of(pool_labels, best, k)[without],
        )
        found.append(Judged(components, taken, judge(components, taken, seen, asked)))
    verdicts = with_verdicts([judged.evidence for judged in found], false_discoveries)
    return [replace(j, evidence=evidence) for j, evidence in zip(found, verdicts, strict=True)]
