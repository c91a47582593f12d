"""Which components are suspicious, judged without any label of what is spurious.

A component of class k is suspicious if images that do *not* show k, but activate the component
most, get a high p_k (sufficiency), far higher than images without k get on average (lift), and
if it carries a part of what sets the class's logit apart from other classes' images (contrast
share). The reference for the contrast is images of other classes, not the class mean: a feature
that nearly all the class's images have does not vary inside the class, but it does against others.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whylens.neural_pca.components import ClassComponents
from whylens.neural_pca.sufficiency import Mined

Array = NDArray[np.float64]

# A component is suspicious where images without the class get at least 0.43 of the probability,
# three times as much as images without the class do on average. Measured on ten planted classifiers
# (seeds 1 to 5 of two architectures): planted features get 0.46 or more, others 0.40 or less.
MIN_SUFFICIENCY = 0.43
MIN_LIFT = 3.0
MIN_CONTRAST_SHARE = 0.02
# Components whose mined images are shared to this degree show the same feature.
SAME_FEATURE = 0.85


@dataclass(frozen=True)
class Evidence:
    """What is known of each component of a class; arrays are [L].

    variance_share
        Part of the class's variance of psi_k.
    contrast_share
        (mean alpha on the class - mean alpha on other images) / the same difference of the logit.
    sufficiency_share, sufficiency_mean_p
        Of the mined images: the share classified as k, and the mean p_k.
    lift
        sufficiency_mean_p / mean p_k over all images without the class.
    suspicion
        In [0, 1]: sufficiency_mean_p where lift and contrast reach their thresholds, scaled down
        in proportion where they don't.
    suspicious
        suspicion >= MIN_SUFFICIENCY.
    same_as
        The first component of the class that shows the same feature, itself where none does.
    """

    variance_share: Array
    contrast_share: Array
    sufficiency_share: Array
    sufficiency_mean_p: Array
    lift: Array
    suspicion: Array
    suspicious: NDArray[np.bool_]
    same_as: NDArray[np.int64]


@dataclass(frozen=True)
class Reference:
    """What is known of other images than those of class k.

    class_mean, others_mean
        Mean features [D] of the class, and of all other classes' images (None: there are none).
    base
        Mean p_k over the mined collection's images without the class.
    sample
        Features [S, D] of such images.
    """

    class_mean: Array
    others_mean: Array | None
    base: float
    sample: NDArray[np.floating]


def judge(components: ClassComponents, mined: Mined, seen: Reference) -> Evidence:
    """The evidence on every component of one class."""
    # Means of alphas are alphas of means.
    inside = components.alphas(seen.class_mean[None])[0]
    if seen.others_mean is None:
        outside, gap = inside * 0, float(components.psi_mean.sum())
    else:
        outside = components.alphas(seen.others_mean[None])[0]
        gap = float((seen.class_mean - seen.others_mean) @ components.weight)
    contrast = (inside - outside) / max(abs(gap), 1e-9)
    lift = mined.mean_probability / max(seen.base, 1e-9)
    factor = np.clip(lift / MIN_LIFT, 0, 1) * np.clip(contrast / MIN_CONTRAST_SHARE, 0, 1)
    suspicion = mined.mean_probability * factor
    return Evidence(
        components.variances / max(components.total_variance, 1e-12),
        contrast,
        mined.share,
        mined.mean_probability,
        lift,
        suspicion,
        suspicion >= MIN_SUFFICIENCY,
        _same_feature(components.alphas(seen.sample), mined, suspicion),
    )


def _same_feature(alphas: Array, mined: Mined, suspicion: Array) -> NDArray[np.int64]:
    """Components in order of suspicion; one joins an earlier one that its mined images activate.

    "Activate": their mean rank among images without the class, of alphas [S, L], by the earlier
    one's alpha.
    """
    pool = np.sort(alphas, axis=0)
    leaders: list[int] = []
    same = np.arange(len(suspicion))
    for component in np.argsort(-suspicion, kind="stable"):
        for leader in leaders:
            of_mined = mined.profiles[component, :, leader]
            ranks = np.searchsorted(pool[:, leader], of_mined) / len(pool)
            if ranks.mean() >= SAME_FEATURE:
                same[component] = leader
                break
        else:
            leaders.append(int(component))
    return same


_STOP_WORDS = frozenset(
    word
    for line in ("a an and at in is of on the this to with", "photo photograph picture")
    for word in line.split()
)


def typical_words(
    texts: Sequence[str], weights: NDArray[np.floating], *, top: int = 3
) -> list[tuple[str, float]]:
    """Words that the heavily weighted texts hold more often than all texts: (word, lift).

    `weights` [N] >= 0, p_k of images that activate a component, say. A word's lift is its weighted
    share over its plain share, both with a prior of five texts; words of less than a fifth of the
    weight, or of less than half the best word's lift, are left out.
    """
    total = float(weights.sum())
    if total <= 0 or not texts:
        return []
    plain: Counter[str] = Counter()
    weighted: defaultdict[str, float] = defaultdict(float)
    for text, weight in zip(texts, weights, strict=True):
        for word in set(text.replace(",", " ").replace("_", " ").casefold().split()) - _STOP_WORDS:
            plain[word] += 1
            weighted[word] += float(weight)
    count, prior = len(texts), 5.0
    lifts = []
    for word, mass in weighted.items():
        share, base = mass / total, plain[word] / count
        if share >= 0.2:
            lifts.append((word, (share * count + prior * base) / (base * count + prior * base)))
    best = max((lift for _, lift in lifts), default=0.0)
    return sorted((w for w in lifts if w[1] >= best / 2), key=lambda pair: -pair[1])[:top]
