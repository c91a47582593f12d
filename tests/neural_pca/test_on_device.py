"""Components of many classes at once are those of each class alone, by the textbook."""

import numpy as np
import pytest

from whylens.errors import WhylensError
from whylens.neural_pca import Moments, on_device
from whylens.neural_pca.on_device import ClassFeatures, components_on, moments_on

SIZE = 12


def drawn(seed, count, rank=SIZE):
    """Features [count, SIZE] in single precision, as jobs read them, and a weight."""
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(count, rank)) @ generator.normal(size=(rank, SIZE))
    return (features + 3).astype(np.float32), generator.normal(size=SIZE)


def textbook(features, weight):
    """Falling variances [D], and alphas [N, D], of the class's own images."""
    psi = features.astype(np.float64) * weight
    values, vectors = np.linalg.eigh(np.cov(psi.T, bias=True))
    vectors = vectors.T[::-1]
    alphas = np.stack([v.sum() * ((psi - psi.mean(0)) @ v) for v in vectors], 1)
    return values[::-1], alphas


@pytest.mark.parametrize("at_once", [2**30, 1])
def test_components_of_many_classes_are_those_of_each(monkeypatch, at_once):
    monkeypatch.setattr(on_device, "AT_ONCE", at_once)
    # Fewer images than features, of different numbers and of low rank; more; moments.
    made = [drawn(0, 7), drawn(1, 11), drawn(2, 9, rank=3), drawn(3, 40), drawn(4, 30)]
    classes = [
        ClassFeatures(10 + place, weight, 0.5 * place, Moments.of(seen) if place == 4 else seen)
        for place, (seen, weight) in enumerate(made)
    ]
    found = components_on("cpu", classes, top=8)
    assert [one.class_index for one in found] == [10, 11, 12, 13, 14]
    for place, (own, (features, weight), left) in enumerate(
        zip(found, made, [6, 8, 3, 8, 8], strict=True)
    ):
        variances, alphas = textbook(features, weight)
        assert own.count == len(features)
        assert len(own.variances) == left
        np.testing.assert_allclose(own.variances, variances[:left], rtol=1e-6)
        np.testing.assert_allclose(own.total_variance, variances.sum(), rtol=1e-6)
        np.testing.assert_allclose(own.vectors @ own.vectors.T, np.eye(left), atol=1e-9)
        np.testing.assert_allclose(
            own.alphas(features), alphas[:, :left], atol=1e-5 * np.abs(alphas).max()
        )
        mean_logit = (features.astype(np.float64) @ weight).mean() + 0.5 * place
        assert own.constant == pytest.approx(mean_logit)


def test_moments_are_the_features():
    features, _ = drawn(5, 20)
    found, rows = moments_on("cpu", features), features.astype(np.float64)
    assert found.count == 20
    np.testing.assert_allclose(found.mean, rows.mean(0))
    np.testing.assert_allclose(found.scatter, 20 * np.cov(rows.T, bias=True), rtol=1e-10)
    assert moments_on("cpu", features[:0]).count == 0


@pytest.mark.parametrize("count", [7, 40])
def test_a_class_that_has_none_is_named(count):
    good, (features, weight) = drawn(6, 9), drawn(7, count)
    features[1, 2] = np.inf
    classes = [ClassFeatures(3, good[1], 0.0, good[0]), ClassFeatures(4, weight, 0.0, features)]
    with pytest.raises(WhylensError, match=r"class 4 .* not finite"):
        components_on("cpu", classes, top=4)
    for seen in (features[:1], Moments.of(features[:1])):
        with pytest.raises(WhylensError, match="class 4 has 1 image:"):
            components_on("cpu", [ClassFeatures(4, weight, 0.0, seen)], top=4)
