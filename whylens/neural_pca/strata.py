"""What holds in the images of many classes, not in those of one: means over strata.

Images of several classes (strata) are measured. Each stratum's mean is an estimate of an effect
that may differ between strata, and the mean over strata, with its interval, is that of a
random-effects meta-analysis: weights by DerSimonian and Laird (1986), the interval by Hartung and
Knapp (2001) with Student's t, never narrower than the plain one (Röver, Knapp and Friede 2015).
Strata that agree weigh by their images; where they differ, each weighs alike, and the interval is
as wide as they are few: a class that merely looks alike is one stratum. That an effect is not of
one stratum alone is a partial conjunction of hypotheses (Benjamini and Heller, "Screening for
partial conjunction hypotheses", Biometrics 2008): it has to hold whichever of them is left out.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

Array = NDArray[np.float64]

# Of the intervals: two-sided, so that its lower end is that of a one-sided test at 5 %.
LEVEL = 0.9
# Below this variance images of a stratum count as equal.
EQUAL = 1e-12


@dataclass(frozen=True)
class OverStrata:
    """A mean over strata.

    weights
        What each image counts, [M], adding up to 1; the mean is weights @ values.
    mean, low, high
        The mean and its interval of LEVEL; NaN ends with fewer than two strata.
    p_value
        Of "the mean is not above 0", one-sided; 1 with fewer than two strata.
    strata
        How many have images.
    """

    weights: Array
    mean: float
    low: float
    high: float
    p_value: float
    strata: int


def over_strata(values: Array, strata: NDArray[np.integer]) -> OverStrata:
    """The mean of images, values [M], over their strata [M]."""
    _, place, counts = np.unique(strata, return_inverse=True, return_counts=True)
    many = len(counts)
    if many < 2:
        shares = np.full(len(values), 1 / max(len(values), 1))
        return OverStrata(shares, float(shares @ values), np.nan, np.nan, 1.0, many)
    means = np.bincount(place, values) / counts
    within = float(((values - means[place]) ** 2).sum()) / max(len(values) - many, 1)
    weights = _weights(means, counts.astype(np.float64), max(within, EQUAL))
    total = float(weights.sum())
    mean = float(weights @ means) / total
    spread = float(weights @ (means - mean) ** 2) / ((many - 1) * total)
    error = float(np.sqrt(max(spread, 1 / total)))
    # Student's distribution without scipy.stats, which takes half a second to import.
    reach = error * float(stdtrit(many - 1, (1 + LEVEL) / 2))
    p_value = float(stdtr(many - 1, -mean / error))
    shares = (weights / counts)[place] / total
    return OverStrata(shares, mean, mean - reach, mean + reach, p_value, many)


def replicated(values: Array, strata: NDArray[np.integer]) -> float:
    """The p-value of "the mean is not above 0, or is so by one stratum": values [M], strata [M].

    One-sided: the largest that `over_strata` gives without any one of the strata. Of the one that
    is left of two, images count as strata. 1 with a single stratum.
    """
    names = np.unique(strata)
    if len(names) < 2:
        return 1.0
    found = []
    for name in names:
        left = strata != name
        apart = np.arange(left.sum()) if len(names) == 2 else strata[left]
        found.append(over_strata(values[left], apart).p_value)
    return max(found)


def _weights(means: Array, counts: Array, within: float) -> Array:
    """One over the variance of each stratum's mean, within and between strata, [G]."""
    plain = counts / within
    centre = plain @ means / plain.sum()
    excess = plain @ (means - centre) ** 2 - (len(means) - 1)
    between = max(0.0, float(excess / (plain.sum() - plain @ plain / plain.sum())))
    weights: Array = 1 / (within / counts + between)
    return weights


def q_values(p_values: Array, weights: Array) -> Array:
    """The least false discovery rate, [N], at which each of N hypotheses is rejected.

    Benjamini and Hochberg (1995), with weights >= 0 (Genovese, Roeder and Wasserman 2006), which
    are not to depend on the data that were tested; they are scaled to a mean of 1, and a weight of
    0 is never rejected. Holds for tests that are independent or depend on each other positively.
    """
    count = len(p_values)
    scaled = weights * count / max(float(weights.sum()), 1e-300)
    weighted = np.where(scaled > 0, p_values / np.maximum(scaled, 1e-300), np.inf)
    order = np.argsort(weighted, kind="stable")
    steps = weighted[order] * count / np.arange(1, count + 1)
    found = np.empty(count)
    found[order] = np.minimum(np.minimum.accumulate(steps[::-1])[::-1], 1.0)
    return found
