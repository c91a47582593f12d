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
    weights, (mean,), (error,) = _means_over(values, place, counts, np.ones((1, many), bool))
    # Student's distribution without scipy.stats, which takes half a second to import.
    reach = float(error * stdtrit(many - 1, (1 + LEVEL) / 2))
    p_value = float(stdtr(many - 1, -mean / error))
    shares = (weights[0] / counts)[place] / weights.sum()
    return OverStrata(shares, float(mean), mean - reach, mean + reach, p_value, many)


def replicated(values: Array, strata: NDArray[np.integer]) -> float:
    """The p-value of "the mean is not above 0, or is so by one stratum": values [M], strata [M].

    One-sided: the largest that `over_strata` gives without any one of the strata. Of the one that
    is left of two, images count as strata. 1 with a single stratum.
    """
    names, place, counts = np.unique(strata, return_inverse=True, return_counts=True)
    many = len(counts)
    if many < 2:
        return 1.0
    if many == 2:
        return max(over_strata(values[strata == k], np.arange((strata == k).sum())).p_value
                   for k in names)  # fmt: skip
    _, means, errors = _means_over(values, place, counts, ~np.eye(many, dtype=bool))
    return float(stdtr(many - 2, -means / errors).max())


def _means_over(
    values: Array, place: NDArray[np.intp], counts: NDArray[np.intp], kept: NDArray[np.bool_]
) -> tuple[Array, Array, Array]:
    """Of some choices of strata, kept [R, G]: weights [R, G], means [R] and their errors [R].

    `place` [M] is each image's stratum, of `counts` [G] images. A choice has two strata or more.
    """
    means = np.bincount(place, values) / counts
    squares = np.bincount(place, (values - means[place]) ** 2)
    many, images = kept.sum(1), kept * counts
    within = (kept @ squares) / np.maximum(images.sum(1) - many, 1)
    within = np.maximum(within, EQUAL)[:, None]
    # One over the variance of each stratum's mean, within strata, then within and between them.
    plain = images / within
    centre = (plain @ means) / plain.sum(1)
    excess = (plain * (means - centre[:, None]) ** 2).sum(1) - (many - 1)
    scale = plain.sum(1) - (plain**2).sum(1) / plain.sum(1)
    between = np.maximum(excess / scale, 0)[:, None]
    weights: Array = kept / (within / counts + between)
    total = weights.sum(1)
    found = (weights @ means) / total
    spread = (weights * (means - found[:, None]) ** 2).sum(1) / ((many - 1) * total)
    return weights, found, np.sqrt(np.maximum(spread, 1 / total))


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
