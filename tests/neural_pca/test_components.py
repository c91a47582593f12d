from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from whylens.classifiers.heatmap import component_heatmap
from whylens.errors import WhylensError
from whylens.neural_pca import Moments, class_components, from_moments
from whylens.neural_pca.components import load_components, save_components

TIGER_CAT = 282


def textbook(features, weight):
    """Eigenvalues [D] (falling), eigenvectors [D, D] (rows) and mean of psi, as methods.md says."""
    psi = features * weight
    values, vectors = np.linalg.eigh(np.cov(psi.T, bias=True))
    return values[::-1], vectors.T[::-1], psi.mean(0)


def textbook_alphas(features, weight, vectors, mean):
    """alpha_l(x) = <1, v_l> <v_l, psi(x) - mean>, one by one."""
    return np.stack([v.sum() * ((features * weight - mean) @ v) for v in vectors], 1)


def drawn(seed, count, size, scale=1.0):
    """Non-negative, correlated features [N, D] with a non-zero mean, a weight and a bias."""
    generator = np.random.default_rng(seed)
    mix = generator.normal(size=(size, size))
    features = np.maximum(generator.normal(size=(count, size)) @ mix + 0.5, 0) * scale
    return features, generator.normal(size=size), float(generator.normal())


cases = st.tuples(st.integers(0, 10**6), st.integers(2, 40), st.integers(1, 12))


@settings(max_examples=60, deadline=None)
@given(cases, st.sampled_from([1e-3, 1.0, 1e4]))
def test_alphas_and_the_mean_logit_add_up_to_the_logit(case, scale):
    features, weight, bias = drawn(*case, scale)
    found = from_moments(3, weight, bias, Moments.of(features), top=case[2])
    others, _, _ = drawn(case[0] + 1, 7, case[2], scale)
    for seen in (features, others):
        total = found.alphas(seen).sum(1) + found.constant
        largest = np.abs(seen * weight).sum(1).max() + abs(bias)
        np.testing.assert_allclose(
            total, seen @ weight + bias, rtol=0, atol=1e-10 * largest + 1e-12
        )


@settings(max_examples=60, deadline=None)
@given(cases)
def test_alphas_have_zero_mean_over_the_class_and_ignore_the_sign_of_a_component(case):
    features, weight, bias = drawn(*case)
    found = class_components(0, weight, bias, features, top=case[2])
    alphas = found.alphas(features)
    np.testing.assert_allclose(
        alphas.mean(0), 0, atol=1e-10 * max(np.abs(alphas).max(initial=0), 1)
    )
    flipped = replace(found, vectors=-found.vectors)
    np.testing.assert_allclose(flipped.alphas(features), alphas, rtol=0, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(cases)
def test_both_routes_give_the_components_of_the_textbook(case):
    features, weight, bias = drawn(*case)
    values, vectors, mean = textbook(features, weight) if case[2] > 1 else (None, None, None)
    if values is None:
        variance = float((features[:, 0] * weight[0]).var())
        values, vectors, mean = np.array([variance]), np.ones((1, 1)), (features * weight).mean(0)
    found = class_components(5, weight, bias, features, top=case[2])
    covariance = from_moments(5, weight, bias, Moments.of(features), top=case[2])
    largest = max(float(values[0]), 1e-12)
    sound = int((values > largest * 1e-8).sum())
    assert sound <= len(found.variances) <= min(case[1] - 1, case[2])
    for route in (found, covariance):
        assert (route.class_index, route.count) == (5, case[1])
        np.testing.assert_allclose(route.variances[:sound], values[:sound], atol=1e-10 * largest)
        assert route.total_variance == pytest.approx((features * weight).var(0).sum(), abs=1e-12)
        np.testing.assert_allclose(route.psi_mean, mean, atol=1e-12)
        size = len(route.vectors)
        np.testing.assert_allclose(route.vectors @ route.vectors.T, np.eye(size), atol=1e-9)
        assert (route.sums >= 0).all()
        expected = textbook_alphas(features, weight, vectors, mean)
        # An eigenvector is as sure as its eigenvalue is far from the next.
        gaps = np.abs(np.subtract.outer(values[:sound], values)) + np.eye(sound, len(values)) * 1e99
        clear = np.flatnonzero(gaps.min(1) > 1e-3 * largest)
        np.testing.assert_allclose(
            route.alphas(features)[:, clear], expected[:, clear], atol=1e-7 * np.sqrt(largest) * 10
        )


def test_on_a_real_classifier_the_alphas_of_all_components_add_up_to_its_logit(real):
    weight, bias = real.weight[TIGER_CAT], real.bias[TIGER_CAT]
    own, others = real.features[:36], real.features[36:]
    found = from_moments(TIGER_CAT, weight, bias, Moments.of(own), top=len(weight))
    assert found.vectors.shape == (1280, 1280)
    for seen, logits in ((own, real.logits[:36]), (others, real.logits[36:])):
        total = found.alphas(seen).sum(1) + found.constant
        np.testing.assert_allclose(total, seen @ weight + bias, rtol=0, atol=1e-10)
        np.testing.assert_allclose(total, logits[:, TIGER_CAT], rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.alphas(own).mean(0), 0, atol=1e-12)
    flipped = replace(found, vectors=-found.vectors)
    np.testing.assert_allclose(flipped.alphas(others), found.alphas(others), atol=1e-12)


def test_on_a_real_classifier_the_heat_map_adds_up_to_alpha(real):
    weight, bias = real.weight[TIGER_CAT], float(real.bias[TIGER_CAT])
    found = class_components(TIGER_CAT, weight, bias, real.features, top=2)
    direction = torch.from_numpy(found.directions[1])
    heat = component_heatmap(real.classifier, real.images[12:15], direction)
    alphas = heat.double().mean((1, 2)).numpy() - found.offsets[1]
    np.testing.assert_allclose(alphas, found.alphas(real.features[12:15])[:, 1], atol=1e-4)


def test_on_a_real_classifier_both_routes_give_the_components_of_the_textbook(real):
    weight, bias = real.weight[TIGER_CAT], real.bias[TIGER_CAT]
    values, vectors, mean = textbook(real.features, weight)
    expected = textbook_alphas(real.features, weight, vectors[:20], mean)
    by_gram = class_components(TIGER_CAT, weight, bias, real.features, top=20)
    by_covariance = from_moments(TIGER_CAT, weight, bias, Moments.of(real.features), top=20)
    # Of 1,280 features the covariance's subspace is found in single precision (`leading`), whose
    # rounding differs between CPUs and numbers of threads; of 45 images the Gram matrix's is not.
    for route, error in ((by_gram, 1e-8), (by_covariance, 1e-7)):
        np.testing.assert_allclose(route.variances, values[:20], rtol=1e-9)
        assert route.total_variance == pytest.approx(values.sum(), rel=1e-9)
        np.testing.assert_allclose(route.alphas(real.features), expected, atol=error)
    # Components of the class's own images span them: on these the identity holds for the Gram
    # route too, with the 44 components that vary.
    whole = class_components(TIGER_CAT, weight, bias, real.features, top=1280)
    assert len(whole.variances) == len(real.features) - 1
    total = whole.alphas(real.features).sum(1) + whole.constant
    np.testing.assert_allclose(total, real.features @ weight + bias, atol=1e-10)


def test_alpha_is_an_inner_product_with_the_features():
    features, weight, bias = drawn(8, 30, 6)
    found = class_components(0, weight, bias, features, top=6)
    by_query = features @ found.directions.T - found.offsets
    expected = textbook_alphas(features, weight, found.vectors, (features * weight).mean(0))
    np.testing.assert_allclose(by_query, expected, atol=1e-10)
    assert found.constant == pytest.approx(float((features @ weight + bias).mean()))


@settings(max_examples=30, deadline=None)
@given(cases, st.randoms(use_true_random=False))
def test_the_order_of_images_does_not_matter(case, generator):
    features, weight, bias = drawn(*case)
    order = list(range(case[1]))
    generator.shuffle(order)
    found = class_components(0, weight, bias, features, top=case[2])
    again = class_components(0, weight, bias, features[order], top=case[2])
    largest = found.variances.max(initial=0)
    np.testing.assert_allclose(again.variances, found.variances, atol=1e-9 * largest)
    gaps = np.abs(np.subtract.outer(found.variances, found.variances))
    gaps += np.eye(len(gaps)) * 1e99
    clear = np.flatnonzero(gaps.min(1, initial=1e99) > 1e-3 * largest)
    scale = np.abs(features * weight).sum(1).max()
    np.testing.assert_allclose(
        again.alphas(features)[:, clear], found.alphas(features)[:, clear], atol=1e-7 * scale
    )


@pytest.mark.parametrize("count", [4, 40], ids=["by Gram", "by covariance"])
def test_nearly_equal_features_keep_their_digits(count):
    generator = np.random.default_rng(2)
    tiny = generator.normal(size=(count, 8)) * 1e-6
    weight = generator.normal(size=8)
    offset = class_components(0, weight, 0.0, 100.0 + tiny, top=3)
    centred = class_components(0, weight, 0.0, tiny, top=3)
    np.testing.assert_allclose(offset.variances, centred.variances, rtol=1e-5)
    np.testing.assert_allclose(
        offset.alphas(100.0 + tiny), centred.alphas(tiny), atol=1e-4 * np.abs(tiny).max()
    )


@pytest.mark.parametrize("count", [3, 30], ids=["by Gram", "by covariance"])
def test_equal_features_have_no_components(count):
    features = np.tile(np.array([1.0, 0.5, 2.0, 0.0, 3.0]), (count, 1))
    weight = np.array([1.0, -2.0, 0.5, 1.0, 0.1])
    found = class_components(0, weight, 0.5, features, top=4)
    assert found.vectors.shape == (0, 5)
    assert found.total_variance == 0
    assert found.alphas(features).shape == (count, 0)
    assert found.constant == pytest.approx(features[0] @ weight + 0.5)


@pytest.mark.parametrize("count", [6, 60], ids=["by Gram", "by covariance"])
def test_dead_features_take_no_part_in_any_component(count):
    features, weight, bias = drawn(4, count, 10)
    features[:, [2, 7]] = 0.0
    found = class_components(0, weight, bias, features, top=10)
    assert len(found.variances) == min(count - 1, 8)
    np.testing.assert_allclose(found.vectors[:, [2, 7]], 0, atol=1e-12)
    alive = [i for i in range(10) if i not in (2, 7)]
    without = class_components(0, weight[alive], bias, features[:, alive], top=10)
    np.testing.assert_allclose(found.variances, without.variances, rtol=1e-8)
    np.testing.assert_allclose(
        found.alphas(features), without.alphas(features[:, alive]), atol=1e-8
    )


def test_fewer_images_than_components_asked_give_one_less_than_images():
    features, weight, bias = drawn(5, 4, 9)
    found = class_components(0, weight, bias, features, top=128)
    assert found.vectors.shape == (3, 9)
    assert found.variances.sum() == pytest.approx(found.total_variance)


@pytest.mark.parametrize("count", [0, 1])
def test_a_class_with_less_than_two_images_is_named(count):
    features = np.ones((count, 4))
    with pytest.raises(WhylensError, match=rf"class 17 has {count} image.*two are needed"):
        class_components(17, np.ones(4), 0.0, features, top=2)
    with pytest.raises(WhylensError, match=rf"class 17 has {count} image"):
        from_moments(17, np.ones(4), 0.0, Moments.of(features), top=2)


def test_features_that_are_not_finite_are_refused_by_class():
    for count in (3, 20):
        features, weight, bias = drawn(6, count, 5)
        features[1, 2] = np.nan
        with pytest.raises(WhylensError, match=r"class 4.*not finite"):
            class_components(4, weight, bias, features, top=2)


def test_components_survive_the_disk(tmp_path):
    features, weight, bias = drawn(9, 25, 7)
    found = class_components(12, weight, bias, features, top=5)
    save_components(found, tmp_path / "class.safetensors", {"classifier": "abc"})
    loaded = load_components(tmp_path / "class.safetensors")
    assert (loaded.class_index, loaded.count, loaded.bias) == (12, 25, bias)
    assert loaded.total_variance == found.total_variance
    np.testing.assert_array_equal(loaded.alphas(features), found.alphas(features))
    np.testing.assert_array_equal(loaded.variances, found.variances)
