"""Means over strata beside textbook values and simulations; q-values beside the definition."""

import numpy as np
import pytest
from scipy import stats

from whylens.neural_pca.strata import over_strata, q_values, replicated


def test_single_images_of_many_classes_are_a_plain_t_interval():
    values = np.random.default_rng(0).normal(0.3, 0.2, size=30)
    found = over_strata(values, np.arange(30))
    assert found.mean == pytest.approx(values.mean())
    low, high = stats.t.interval(0.9, 29, values.mean(), stats.sem(values))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    expected = stats.ttest_1samp(values, 0, alternative="greater").pvalue
    assert found.p_value == pytest.approx(expected)
    np.testing.assert_allclose(found.weights, 1 / 30)


def test_one_class_that_stands_out_does_not_carry_the_mean():
    values = np.concatenate([np.full(42, 0.3), np.zeros(8)])
    values += np.random.default_rng(1).normal(0, 0.02, size=50)
    strata = np.concatenate([np.zeros(42, int), np.arange(1, 9)])
    found = over_strata(values, strata)
    assert values.mean() > 0.2
    # Each of nine classes weighs nearly alike.
    assert found.mean == pytest.approx(0.3 / 9, abs=0.02)
    assert found.p_value > 0.1
    assert found.strata == 9


def test_the_interval_holds_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(2)
    strata = np.repeat(np.arange(9), 5)
    held = 0
    for _ in range(400):
        of_classes = rng.normal(0.2, 0.1, size=9)
        found = over_strata(of_classes[strata] + rng.normal(0, 0.2, size=45), strata)
        held += found.low <= 0.2 <= found.high
    assert 0.86 <= held / 400 <= 0.97


def test_a_single_class_says_nothing_of_others():
    found = over_strata(np.array([0.5, 0.6]), np.zeros(2, int))
    assert (found.strata, found.p_value, found.mean) == (1, 1.0, pytest.approx(0.55))
    assert np.isnan(found.low)
    assert over_strata(np.zeros(0), np.zeros(0, int)).strata == 0


def test_what_one_class_carries_is_not_replicated():
    rng = np.random.default_rng(4)
    strata = np.repeat(np.arange(9), 30)
    noise = rng.normal(0, 0.1, size=len(strata))
    shared, alone = noise + 0.05, noise + 0.3 * (strata == 4)
    # A t-test of eight classes' means, without the ninth, from SciPy.
    means = shared.reshape(9, 30).mean(1)
    without = [
        stats.ttest_1samp(np.delete(means, k), 0, alternative="greater").pvalue for k in range(9)
    ]
    assert replicated(shared, strata) == pytest.approx(max(without), rel=1e-6)
    assert replicated(shared, strata) > over_strata(shared, strata).p_value
    assert replicated(shared, strata) < 0.001
    assert replicated(alone, strata) > 0.2


def test_of_two_classes_each_has_to_show_it():
    rng = np.random.default_rng(5)
    first, second = rng.normal(0.2, 0.1, size=12), rng.normal(0.02, 0.1, size=9)
    strata = np.repeat([3, 8], [12, 9])
    each = [stats.ttest_1samp(x, 0, alternative="greater").pvalue for x in (first, second)]
    assert replicated(np.concatenate([first, second]), strata) == pytest.approx(max(each))
    assert replicated(first, np.zeros(12, int)) == 1
    assert replicated(np.zeros(0), np.zeros(0, int)) == 1


def test_q_values_are_those_of_benjamini_and_hochberg():
    p = np.array([0.01, 0.04, 0.03, 0.9, 0.005])
    np.testing.assert_allclose(q_values(p, np.ones(5)), stats.false_discovery_control(p))
    np.testing.assert_allclose(q_values(p, np.full(5, 7.0)), q_values(p, np.ones(5)))


def test_weights_divide_p_values_and_none_is_never():
    p, weights = np.array([0.02, 0.02, 0.02, 0.0]), np.array([3.0, 0.5, 0.5, 0.0])
    scaled = np.minimum(p[:3] / (weights[:3] * 4 / 4), 1)
    expected = stats.false_discovery_control(np.append(scaled, 1.0))
    np.testing.assert_allclose(q_values(p, weights)[:3], expected[:3])
    assert q_values(p, weights)[3] == 1


def test_without_any_effect_few_runs_have_a_discovery():
    rng = np.random.default_rng(3)
    strata = np.repeat(np.arange(9), 4)
    runs = 0
    for _ in range(100):
        p = np.array([over_strata(rng.normal(0, 1, size=36), strata).p_value for _ in range(40)])
        runs += (q_values(p, rng.random(40)) <= 0.05).any()
    assert runs <= 10
