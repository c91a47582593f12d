"""Slices of mistakes in features whose truth is known, and what leads to them."""

import numpy as np
import pytest

from whylens.neural_pca import FeatureIndex, class_components
from whylens.neural_pca.slices import leading_components, slices


def test_mistakes_that_are_alike_are_slices_and_the_feature_behind_them_leads():
    """Class 0 is called by feature 0 (its object) and feature 1 (a shortcut)."""
    generator = np.random.default_rng(0)
    weight = np.array([[2.0, 2.0, 0.0, 0.0], [0.0, 0.0, 2.0, 0.5]])
    own = generator.normal(size=(200, 4)) * [0.3, 0.8, 0.3, 0.3] + [2, 2, 0, 0]
    others = generator.normal(size=(300, 4)) * 0.3 + [0, 0, 2, 0]
    mistaken = generator.normal(size=(60, 4)) * 0.3 + [0, 3, 1, 0]
    features = np.concatenate([own, others, mistaken]).astype(np.float32)
    labels = np.r_[np.zeros(200, int), np.ones(360, int)]
    logits = features @ weight.T
    p = np.exp(logits[:, 0]) / np.exp(logits).sum(1)
    predicted = logits.argmax(1)
    index = FeatureIndex.build(features, [str(i) for i in range(560)], fingerprint="any")
    (found,) = slices(index, labels, predicted, p, 0)
    assert set(range(500, 560)) == set(found.rows.tolist())
    assert found.rate > 0.9
    assert slices(index, labels, predicted, p, 1) == []

    components = class_components(0, weight[0], 0.0, features[labels == 0], 4)
    mean, rest = features[500:].mean(0), features[200:500].mean(0)
    order, shares = leading_components(components, mean, rest)
    expected = components.alphas(mean[None])[0] - components.alphas(rest[None])[0]
    expected /= (mean - rest) @ weight[0]
    assert np.allclose(shares, expected[order])
    assert (np.diff(shares) <= 0).all()
    # The component that varies most is the shortcut's.
    assert abs(components.vectors[order[0]][1]) > 0.9
    # Over all directions that count, the shares are the whole difference.
    assert shares.sum() == pytest.approx(1, abs=0.02)


def test_images_without_a_label_are_passed_over():
    generator = np.random.default_rng(1)
    features = generator.normal(size=(80, 3)).astype(np.float32)
    index = FeatureIndex.build(features, [str(i) for i in range(80)], fingerprint="any")
    none = np.full(80, -1)
    assert slices(index, none, np.zeros(80, int), np.ones(80), 0) == []
