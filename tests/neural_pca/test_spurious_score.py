"""The spurious score, against its definitions written out over all pairs."""

import numpy as np
import pytest

from whylens.errors import WhylensError
from whylens.neural_pca.spurious_score import mean_separation, separation, spurious_scores


def average_precision(positives: list[float], negatives: list[float]) -> float:
    """The mean over positives of the precision when all images from its p on are taken."""
    everything = positives + negatives
    precisions = []
    for threshold in positives:
        taken = sum(p >= threshold for p in everything)
        precisions.append(sum(p >= threshold for p in positives) / taken)
    return sum(precisions) / len(positives)


def roc_auc(positives: list[float], negatives: list[float]) -> float:
    """The share of pairs in which the positive is higher, ties counting half."""
    won = sum((p > n) + 0.5 * (p == n) for p in positives for n in negatives)
    return won / len(positives) / len(negatives)


@pytest.mark.parametrize("seed", range(40))
def test_it_is_the_definition_on_random_scores_with_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    positives = rng.random(rng.integers(1, 30)).round(seed % 3 + 1).tolist()
    negatives = (rng.random(rng.integers(1, 40)) * 0.9).round(seed % 3 + 1).tolist()
    found = separation(positives, negatives)
    assert found.average_precision == pytest.approx(average_precision(positives, negatives))
    assert found.roc_auc == pytest.approx(roc_auc(positives, negatives))


@pytest.mark.parametrize(
    ("positives", "negatives", "precision", "auc"),
    [
        ([0.9, 0.4], [0.6, 0.4], (1 + 2 / 4) / 2, 2.5 / 4),
        ([0.9, 0.8], [0.1], 1.0, 1.0),
        ([0.1], [0.9, 0.8, 0.7], 1 / 4, 0.0),
        ([0.5] * 50, [0.5] * 75, 50 / 125, 0.5),
    ],
)
def test_it_is_what_a_hand_finds(
    positives: list[float], negatives: list[float], precision: float, auc: float
) -> None:
    found = separation(positives, negatives)
    assert (found.average_precision, found.roc_auc) == pytest.approx((precision, auc))


def test_each_class_is_scored_on_its_own_images_and_the_mean_is_over_classes() -> None:
    labels = np.asarray([7, 2, 7, 5, 2])
    p = np.asarray([0.9, 0.2, 0.4, 1.0, 0.3])
    spurious_for = np.asarray([2, 7, 7, 9])
    spurious_p = np.asarray([0.25, 0.6, 0.4, 1.0])
    scores = spurious_scores(p, labels, spurious_p, spurious_for)
    # 5 has no spurious images, 9 no validation images.
    assert sorted(scores) == [2, 7]
    assert scores[7].average_precision == pytest.approx((1 + 2 / 4) / 2)
    assert scores[2].average_precision == pytest.approx((1 + 2 / 3) / 2)
    mean = mean_separation(scores)
    assert mean.average_precision == pytest.approx((0.75 + 5 / 6) / 2)
    assert mean.roc_auc == pytest.approx((2.5 / 4 + 1 / 2) / 2)


def test_one_side_without_images_and_values_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(WhylensError, match="0 images of the class, 2 spurious"):
        separation([], [0.1, 0.2])
    with pytest.raises(WhylensError, match="1 of 3 probabilities"):
        separation([0.5, np.nan], [0.1])
    with pytest.raises(WhylensError, match="no class has both"):
        mean_separation({})
