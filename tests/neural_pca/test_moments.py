import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from whylens.neural_pca import Moments


def agree(found, features, scale=1.0):
    assert found.count == len(features)
    np.testing.assert_allclose(found.mean, features.mean(0), rtol=1e-10, atol=1e-12)
    expected = np.atleast_2d(np.cov(features.T, bias=True)) * len(features)
    np.testing.assert_allclose(found.scatter, expected, rtol=1e-7, atol=1e-9 * scale)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.lists(st.integers(0, 12), min_size=1, max_size=6).filter(sum),
    st.integers(1, 6),
    st.randoms(use_true_random=False),
)
def test_parts_merged_in_any_order_are_the_moments_of_the_whole(seed, sizes, size, order):
    features = np.random.default_rng(seed).normal(3.0, 2.0, size=(sum(sizes), size))
    parts = [Moments.of(part) for part in np.split(features, np.cumsum(sizes)[:-1])]
    while len(parts) > 1:
        order.shuffle(parts)
        parts.append(parts.pop().merge(parts.pop()))
    agree(parts[0], features)


def test_single_images_streamed_one_by_one_are_the_moments_of_all():
    features = np.random.default_rng(1).normal(size=(50, 4))
    total = Moments.empty(4)
    for row in features:
        total = total.merge(Moments.of(row[None]))
    agree(total, features)


def test_a_large_common_value_costs_no_digits_of_the_spread():
    spread = np.random.default_rng(2).normal(size=(40, 3)) * 1e-4
    shifted = Moments.of(1e4 + spread[:15]).merge(Moments.of(1e4 + spread[15:]))
    expected = np.cov(spread.T, bias=True) * 40
    np.testing.assert_allclose(shifted.scatter, expected, atol=1e-6 * expected.max())


def test_float32_features_are_summed_in_double_precision():
    features = np.random.default_rng(3).normal(100, 1, size=(2000, 2)).astype(np.float32)
    agree(Moments.of(features), features.astype(np.float64), scale=1e4)


def test_merging_leaves_both_parts_as_they_were():
    a, b = (Moments.of(np.random.default_rng(s).normal(size=(5, 3))) for s in (4, 5))
    before = [x.copy() for x in (a.mean, a.scatter, b.mean, b.scatter)]
    a.merge(b)
    for array, expected in zip((a.mean, a.scatter, b.mean, b.scatter), before, strict=True):
        np.testing.assert_array_equal(array, expected)
