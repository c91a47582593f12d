"""Neural PCA on a GPU: what it is on a CPU, in the double precision of both."""

import numpy as np
import pytest

from whylens.neural_pca import Moments, class_components
from whylens.neural_pca.on_device import Affine, ClassFeatures, components_on, moments_on
from whylens.neural_pca.refit import refit
from whylens.neural_pca.sufficiency import Miner

SIZE = 256


def drawn(seed, count):
    """Features [count, SIZE] as a ReLU leaves them, of falling variances, and a weight [SIZE]."""
    generator = np.random.default_rng(seed)
    factors = generator.normal(size=(count, 40)) * np.arange(1, 41) ** -0.6
    features = factors @ generator.normal(size=(40, SIZE)) + 0.1 * generator.normal(
        size=(count, SIZE)
    )
    return np.maximum(features, 0).astype(np.float32), generator.normal(size=SIZE) / 16


def test_components_of_a_batch_of_classes_are_those_of_each():
    made = [drawn(seed, count) for seed, count in enumerate((90, 200, 400, 500))]
    classes = [
        ClassFeatures(place, weight, 0.5, Moments.of(seen) if place == 3 else seen)
        for place, (seen, weight) in enumerate(made)
    ]
    for place, found in enumerate(components_on("cuda", classes, top=20)):
        features, weight = made[place]
        wanted = class_components(place, weight, 0.5, features, 20)
        np.testing.assert_allclose(found.variances, wanted.variances, rtol=1e-4)
        apart = np.abs(np.diff(wanted.variances)) > 0.01 * wanted.variances[1:]
        sure = np.append(apart, False) & np.insert(apart, 0, True)
        assert sure.sum() > 5
        alphas, others = (one.alphas(features)[:, sure] for one in (found, wanted))
        np.testing.assert_allclose(alphas, others, atol=1e-3 * np.abs(others).max())


def test_moments_and_what_a_head_says():
    features, _ = drawn(7, 300)
    found, wanted = moments_on("cuda", features), Moments.of(features)
    np.testing.assert_allclose(found.mean, wanted.mean, rtol=1e-12)
    np.testing.assert_allclose(found.scatter, wanted.scatter, rtol=1e-9, atol=1e-9)
    weight, bias = np.random.default_rng(8).normal(size=(9, SIZE)), np.arange(9.0)
    logits = Affine("cuda", weight, bias)(features)
    np.testing.assert_allclose(logits, features.astype(np.float64) @ weight.T + bias, rtol=1e-5)


def test_mining_finds_the_same_images():
    features, weight = drawn(9, 200)
    pool, _ = drawn(10, 900)
    components = class_components(0, weight, 0.0, features, 10)
    labels = np.arange(len(pool)) % 5
    p = np.full((len(pool), 5), 0.2, np.float32)
    mined = []
    for device in (None, "cuda"):
        miner = Miner([components], 20, device=device)
        for start in range(0, len(pool), 300):
            block = slice(start, start + 300)
            miner.add(np.arange(len(pool))[block], pool[block], p[block], labels[block])
        mined.append(miner.results()[0])
    assert np.array_equal(mined[0].rows, mined[1].rows)
    np.testing.assert_array_equal(mined[0].alphas, mined[1].alphas)


@pytest.mark.filterwarnings("error")
def test_a_head_is_fitted_again_as_on_the_cpu():
    generator = np.random.default_rng(11)
    centres = generator.normal(size=(4, SIZE))
    labels, mined_labels = generator.integers(4, size=600), generator.integers(4, size=80)
    features = centres[labels] + generator.normal(size=(600, SIZE))
    mined = (
        centres[mined_labels] + centres[(mined_labels + 1) % 4] + generator.normal(size=(80, SIZE))
    )
    given = (
        centres / 10, np.zeros(4), features, labels, mined, mined_labels, (mined_labels + 1) % 4,
    )  # fmt: skip
    found, wanted = (refit(*given, device=device) for device in ("cuda", "cpu"))
    assert (found.strength, found.share) == (wanted.strength, wanted.share)
    logits, others = (features @ one.weight.T + one.bias for one in (found, wanted))
    assert np.abs(logits - others).max() < 0.02 * np.abs(others).max()
    assert (logits.argmax(1) == others.argmax(1)).mean() > 0.99
