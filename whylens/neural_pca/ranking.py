"""Which components are suspicious, judged without any label of what is spurious.

A component of class k is suspicious if images that do *not* show k, but activate the component
most, get far more of k than they would anyway. "They" are compared with images of their own classes
(strata), and the difference has to hold over classes, whichever of them is left out
(`whylens.neural_pca.strata`): what is shared by images of many classes is a feature, what only one
class has is that class, which looks alike.

What an image gets anyway is the mean p_k of its class, times what the mined images of a typical
component of k get above theirs: a weakly learned class is raised by whatever raises any of its
components. How much more is asked for is the user's (`Asked`), and so is the false discovery rate
over all components that were looked at. Components count there by the part that they carry of what
sets the class's logit apart from other classes' images (contrast share), which is known before
anything is mined. The reference for it is images of other classes, not the class mean: a feature
that nearly all the class's images have does not vary inside the class, but it does against others.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from whylens.neural_pca.components import ClassComponents
from whylens.neural_pca.strata import OverStrata, over_strata, q_values, replicated
from whylens.neural_pca.sufficiency import Mined

Array = NDArray[np.float64]

# Components whose mined images are shared to this degree show the same feature.
SAME_FEATURE = 0.85


@dataclass(frozen=True)
class Asked:
    """How much more than what they get anyway mined images must get, for a suspicious component.

    times
        At least so many times as much.
    part
        And at least this part of the way from there to what the class's own images get.
    """

    times: float = 1.5
    part: float = 0.1


DEFAULT = Asked()


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
    strata_p, strata_p_low, strata_p_high
        Mean p_k of the mined images over strata, and its interval; without one (NaN) where all are
        of one stratum.
    expected_p, asked_p
        What such images get anyway, and what is asked for, means of the same weights.
    strata
        How many strata the mined images have.
    p_value
        Of "no more than asked for, or by one stratum alone", one-sided.
    suspicion
        In [0, 1]: strata_p_low, lowered as far as it lacks of what is asked for.
    same_as
        The first component of the class that shows the same feature, itself where none does.
    q_value, suspicious
        As `with_verdicts` sets them: the least false discovery rate at which the component would be
        suspicious, and whether that is within what is allowed.
    """

    variance_share: Array
    contrast_share: Array
    sufficiency_share: Array
    sufficiency_mean_p: Array
    lift: Array
    strata_p: Array
    strata_p_low: Array
    strata_p_high: Array
    expected_p: Array
    asked_p: Array
    strata: NDArray[np.int64]
    p_value: Array
    suspicion: Array
    same_as: NDArray[np.int64]
    q_value: Array
    suspicious: NDArray[np.bool_]


@dataclass(frozen=True)
class Reference:
    """What is known of other images than the mined ones.

    class_mean, others_mean
        Mean features [D] of the class, and of all other classes' images (None: there are none).
    own
        Mean p_k of the class's own images.
    base
        Mean p_k over the mined collection's images without the class.
    sample, sample_p, sample_strata
        Features [S, D] of such images, their p_k [S] and strata [S].
    """

    class_mean: Array
    others_mean: Array | None
    own: float
    base: float
    sample: NDArray[np.floating]
    sample_p: NDArray[np.floating]
    sample_strata: NDArray[np.int64]


def judge(
    components: ClassComponents, mined: Mined, seen: Reference, asked: Asked = DEFAULT
) -> Evidence:
    """The evidence on every component of one class; none is suspicious before `with_verdicts`."""
    # Means of alphas are alphas of means.
    inside = components.alphas(seen.class_mean[None])[0]
    if seen.others_mean is None:
        outside, gap = inside * 0, float(components.psi_mean.sum())
    else:
        outside = components.alphas(seen.others_mean[None])[0]
        gap = float((seen.class_mean - seen.others_mean) @ components.weight)
    contrast = (inside - outside) / max(abs(gap), 1e-9)
    expected = _expected(mined, seen)
    needed = np.maximum(asked.times * expected, expected + asked.part * (seen.own - expected))
    strata = mined.strata
    if len(np.unique(seen.sample_strata)) < 2:
        # There is but one other class: its images are compared with each other.
        strata = np.tile(np.arange(strata.shape[1]), (len(strata), 1))
    measured = list(zip(mined.probabilities - needed, strata, strict=True))
    above = [over_strata(more, place) for more, place in measured]
    level = np.array([float(a.weights @ need) for a, need in zip(above, needed, strict=True)])
    anyway = np.array([float(a.weights @ part) for a, part in zip(above, expected, strict=True)])
    low = level + np.array([a.low for a in above])
    certain = np.clip(np.nan_to_num(low), 0, 1)
    reached = np.clip((certain - anyway) / np.maximum(level - anyway, 1e-9), 0, 1)
    suspicion = certain * reached * (contrast > 0)
    top = len(contrast)
    return Evidence(
        variance_share=components.variances / max(components.total_variance, 1e-12),
        contrast_share=contrast,
        sufficiency_share=mined.share,
        sufficiency_mean_p=mined.mean_probability,
        lift=mined.mean_probability / max(seen.base, 1e-9),
        strata_p=level + np.array([a.mean for a in above]),
        strata_p_low=low,
        strata_p_high=level + np.array([a.high for a in above]),
        expected_p=anyway,
        asked_p=level,
        strata=np.array([_counted(a, row) for a, row in zip(above, mined.strata, strict=True)]),
        p_value=np.array([replicated(more, place) for more, place in measured]),
        suspicion=suspicion,
        same_as=_same_feature(components.alphas(seen.sample), mined, suspicion),
        q_value=np.ones(top),
        suspicious=np.zeros(top, bool),
    )


def with_verdicts(evidence: Sequence[Evidence], false_discoveries: float) -> list[Evidence]:
    """The evidence on all classes that were looked at, with q-values and verdicts.

    `false_discoveries` in (0, 1): of the components that are called suspicious, the part that may
    be so by chance.
    """
    if not evidence:
        return []
    q = verdict_q_values(
        np.concatenate([e.p_value for e in evidence]),
        np.concatenate([e.contrast_share for e in evidence]),
    )
    parts = np.split(q, np.cumsum([len(e.p_value) for e in evidence])[:-1])
    return [
        replace(e, q_value=part, suspicious=part <= false_discoveries)
        for e, part in zip(evidence, parts, strict=True)
    ]


def verdict_q_values(p_values: Array, contrast_shares: Array) -> Array:
    """q-values [N] of all components; those that don't raise their class have 1."""
    return q_values(p_values, np.maximum(contrast_shares, 0))


# A class of few images in the sample has its mean drawn to that of all, as if it had so many more.
PRIOR = 5


def _expected(mined: Mined, seen: Reference) -> Array:
    """What mined images get anyway, [L, M]."""
    classes = int(max(seen.sample_strata.max(initial=0), mined.strata.max(initial=0))) + 1
    counts = np.bincount(seen.sample_strata, minlength=classes)
    sums = np.bincount(seen.sample_strata, seen.sample_p, minlength=classes)
    base = ((sums + PRIOR * seen.base) / (counts + PRIOR))[mined.strata]
    if len(base) < 2 or base.shape[1] == 0:
        return base
    gains = mined.mean_probability / np.maximum(base.mean(1), 1e-9)
    typical = [float(np.median(np.delete(gains, component))) for component in range(len(gains))]
    expected: Array = np.minimum(base * np.maximum(typical, 1.0)[:, None], 1.0)
    return expected


def _counted(above: OverStrata, strata: NDArray[np.int64]) -> int:
    return min(above.strata, len(np.unique(strata)))


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
