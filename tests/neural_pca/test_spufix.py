"""SpuFix and its transfer against loops written from the formulas."""

import sys

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from whylens.errors import UsageError, WhylensError
from whylens.neural_pca import (
    Refit,
    class_components,
    refit,
    spufix,
    transfer,
    with_own_images,
)
from whylens.neural_pca.head_fit import Rows, fit
from whylens.neural_pca.refit import _held_out

RNG = np.random.default_rng(3)
K, D, OTHER = 4, 12, 9
WEIGHT, BIAS = RNG.normal(size=(K, D)), RNG.normal(size=K)
WEIGHT2 = RNG.normal(size=(K, OTHER))
LABELS = np.arange(200) % K
FEATURES = np.abs(RNG.normal(size=(200, D)) + np.eye(K, D)[LABELS])
# Another classifier that sees the same: its features follow from the first's, with noise.
FEATURES2 = np.abs(FEATURES @ RNG.normal(size=(D, OTHER)) + 0.1 * RNG.normal(size=(200, OTHER)))
SPURIOUS = {1: [0, 3, 2], 3: [5]}


@pytest.fixture(scope="module")
def found():
    return [class_components(k, WEIGHT[k], BIAS[k], FEATURES[k == LABELS], top=8) for k in range(K)]


def test_logits_equal_a_loop_from_the_formula(found):
    fix = spufix(found, SPURIOUS)
    logits = FEATURES @ WEIGHT.T + BIAS
    expected = logits.copy()
    for row, phi in enumerate(FEATURES):
        for k, chosen in SPURIOUS.items():
            psi = WEIGHT[k] * phi
            mean = (WEIGHT[k] * FEATURES[k == LABELS]).mean(0)
            for component in chosen:
                v = found[k].vectors[component]
                alpha = v.sum() * (v @ (psi - mean))
                expected[row, k] -= max(alpha, 0)
    np.testing.assert_allclose(fix.fix(FEATURES, logits), expected, atol=1e-9)
    assert (fix.fix(FEATURES, logits)[:, [0, 2]] == logits[:, [0, 2]]).all()
    assert (expected < logits - 1e-3).any()


def test_transfer_equals_a_loop_from_the_formula(found):
    fix = transfer(spufix(found, SPURIOUS), FEATURES, FEATURES2, LABELS, WEIGHT2)
    logits = FEATURES2 @ WEIGHT2.T
    expected = logits.copy()
    overlaps = []
    for k, chosen in SPURIOUS.items():
        inside = np.flatnonzero(k == LABELS)
        psi2 = WEIGHT2[k] * FEATURES2
        mean2 = psi2[inside].mean(0)
        units = []
        for component in sorted(chosen):
            v = found[k].vectors[component]
            mean = (WEIGHT[k] * FEATURES[inside]).mean(0)
            total = np.zeros(OTHER)
            for i in inside:
                alpha = v.sum() * (v @ (WEIGHT[k] * FEATURES[i] - mean))
                total += alpha * (psi2[i] - mean2)
            units.append(total / np.linalg.norm(total))
        u = np.stack(units, 1)
        gram = u.T @ u
        overlaps.append(np.abs(gram - np.diag(np.diag(gram))).max())
        for row in range(len(FEATURES2)):
            coordinates = np.linalg.solve(gram, u.T @ (psi2[row] - mean2))
            for j in range(len(units)):
                expected[row, k] -= max(coordinates[j] * units[j].sum(), 0)
    # The directions do overlap, or the test would not tell.
    assert max(overlaps) > 0.1
    np.testing.assert_allclose(fix.fix(FEATURES2, logits), expected, atol=1e-8)


def test_every_wrong_component_is_named(found):
    with pytest.raises(UsageError, match="not 8; class 9 has no components"):
        spufix(found, {1: [0, 8], 9: [1]})
    with pytest.raises(UsageError, match="no spurious component"):
        spufix(found, {1: []})


def test_transfer_needs_images_of_the_class(found):
    fix = spufix(found, SPURIOUS)
    with pytest.raises(WhylensError, match="class 3 has 0 training images"):
        transfer(fix, FEATURES, FEATURES2, np.where(LABELS == 3, 2, LABELS), WEIGHT2)


@pytest.fixture(scope="module")
def context():
    """Two classes told apart by feature 0 (faint) and by feature 1, which is spurious: the head
    relies on it. Mined images have it without the class."""
    rng = np.random.default_rng(5)
    labels = np.arange(1000) % 2
    features = rng.normal(size=(1000, 3)) * 0.3
    features[:, 0] += labels
    features[:, 1] += 3 * (labels == 1)
    mined = rng.normal(size=(60, 3)) * 0.3 + [0, 3, 0]
    head = np.array([[0.0, 0.0, 0.0], [1.5, 3.0, 0.0]]), np.array([4.5, 0.0])
    return features, labels, mined, head


def test_a_refitted_head_leans_less_on_the_feature(context):
    features, labels, mined, (weight, bias) = context
    shown = mined @ weight.T + bias
    assert (shown.argmax(1) == 1).mean() > 0.9
    known, of = np.zeros(60, int), np.ones(60, int)
    fixed = refit(weight, bias, features, labels, mined, known, of, budget=0.05)
    assert isinstance(fixed, Refit)
    assert ((mined @ fixed.weight.T + fixed.bias).argmax(1) == 0).mean() > 0.9
    assert ((features @ fixed.weight.T + fixed.bias).argmax(1) == labels).mean() > 0.9
    assert fixed.cost <= 0.05
    # Without labels the best other class stands in: here there is one.
    blind = refit(weight, bias, features, labels, mined, np.full(60, -1), of, budget=0.05)
    np.testing.assert_allclose(blind.weight, fixed.weight)


def test_a_class_that_was_mined_for_is_shown_by_its_own_images_too(context):
    """Rows 1 and 4 were mined for class 0: its own are 0, 3 and 5. Rows without label are none."""
    labels = np.array([0, 1, 2, 0, 2, 0, -1, 1])
    rows, mined_for = with_own_images(np.array([1, 4]), np.array([0, 0]), labels)
    assert rows.tolist() == [1, 4, 0, 3, 5]
    assert mined_for.tolist() == [0, 0, -1, -1, -1]
    rows, mined_for = with_own_images(np.array([1, 6]), np.array([0, 1]), np.full(8, -1))
    assert (rows.tolist(), mined_for.tolist()) == ([1, 6], [0, 1])
    # A class that is always beside its feature is no longer taken for the other where it is not.
    features, labels, mined, (weight, bias) = context
    own = np.random.default_rng(6).normal(size=(60, 3)) * 0.3 + [1, 0, 0]
    pool, known = np.concatenate([mined, own]), np.repeat([0, 1], 60)
    rows, of = with_own_images(np.arange(60), np.ones(60, int), known)
    said = [
        (own @ fixed.weight.T + fixed.bias).argmax(1)
        for fixed in (
            refit(weight, bias, features, labels, pool[r], known[r], f, budget=0.05)
            for r, f in ((np.arange(60), np.ones(60, int)), (rows, of))
        )
    ]
    assert (said[1] == 1).mean() > 0.9 > (said[0] == 1).mean()


def test_the_refitted_head_is_where_its_loss_is_least(context):
    features, labels, mined, (weight, bias) = context
    known, of = np.zeros(60, int), np.ones(60, int)
    fixed = refit(weight, bias, features, labels, mined, known, of, strengths=(0.5,), budget=1.0)
    spread = features.std(0, ddof=1)

    def loss(w, b):
        train = log_softmax(features @ w.T + b, axis=1)[np.arange(1000), labels].mean()
        extra = log_softmax(mined @ w.T + b, axis=1)[np.arange(60), known].mean()
        # Three features, 1,000 images, and logits that change by some 4.
        return -train - 0.5 * extra + 3 / (2 * 1000 * 16) * (((w - weight) * spread) ** 2).sum()

    least = loss(fixed.weight, fixed.bias)
    assert least < loss(weight, bias)
    for step in (1e-2, -1e-2):
        for index in np.ndindex(weight.shape):
            moved = fixed.weight.copy()
            moved[index] += step
            assert loss(moved, fixed.bias) > least - 1e-7


def test_single_precision_in_blocks_fits_the_same_head(context, monkeypatch):
    """What a GPU does: rows of float32, some at a time."""
    features, labels, mined, (weight, bias) = context
    head = torch.from_numpy(weight), torch.from_numpy(bias)
    known = np.zeros(60, int)

    def fitted(dtype):
        rows = Rows.of(features, labels, "cpu", dtype), Rows.of(mined, known, "cpu", dtype)
        new = fit(*head, *rows, 0.5)
        return [part.numpy() for part in new], rows[0].right(head, new, (0.0, 0.5, 1.0))

    (exact, bound), right = fitted(torch.float64)
    monkeypatch.setattr("whylens.neural_pca.head_fit.BLOCK", 77)
    for dtype, tolerance in ((torch.float64, 1e-5), (torch.float32, 2e-3)):
        (found, shift), other = fitted(dtype)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, exact, atol=tolerance * np.abs(exact).max())
        np.testing.assert_allclose(shift, bound, atol=tolerance * np.abs(bound).max())
        np.testing.assert_allclose(other, right, atol=2)


def test_every_image_is_held_out_once_until_enough_were(monkeypatch):
    labels = RNG.permutation(np.repeat([0, 1, 2], [50, 20, 10]))
    images = np.arange(80.0)[:, None]
    held = []
    for seen, unseen in _held_out(images, labels, "cpu"):
        held.append(unseen.features[:, 0].tolist())
        assert sorted(seen.features[:, 0].tolist() + held[-1]) == images[:, 0].tolist()
        # A fifth of each class.
        assert np.bincount(unseen.labels).tolist() == [10, 4, 2]
        assert (labels[unseen.features[:, 0].long()] == unseen.labels.numpy()).all()
    assert sorted(np.concatenate(held).tolist()) == images[:, 0].tolist()
    monkeypatch.setattr(sys.modules["whylens.neural_pca.refit"], "ENOUGH", 30)
    assert len(list(_held_out(images, labels, "cpu"))) == 2
    assert len(list(_held_out(images[:3], labels[:3], "cpu"))) == 3


def test_a_refit_keeps_to_its_budget_or_does_nothing(context):
    features, labels, mined, (weight, bias) = context
    known, of = np.zeros(60, int), np.ones(60, int)
    timid = refit(weight, bias, features, labels, mined, known, of, budget=-1.0)
    assert (timid.share, timid.cost) == (0, 0)
    np.testing.assert_array_equal(timid.weight, weight)


def test_a_refit_goes_a_part_of_the_way_where_all_of_it_costs_too_much():
    """Few images with many features: any fit costs images that it has not seen."""
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 4
    features = rng.normal(size=(120, 200))
    features[:, :4] += 4 * np.eye(4)[labels]
    weight, bias = np.eye(4, 200), np.zeros(4)
    # They look like class 0 and are of others: to say so costs class 0.
    mined, known = rng.normal(size=(60, 200)), rng.integers(1, 4, 60)
    mined[:, 0] += 4

    def made(budget):
        given = features, labels, mined, known, np.zeros(60, int)
        return refit(weight, bias, *given, budget=budget, strengths=(3.0,))

    whole, part = made(1.0), made(0.03)
    assert whole.share == 1
    assert whole.cost > 0.03 >= part.cost
    assert 0 < part.share < 1
    # Heads on a line: a part of the way, weights and logits alike.
    np.testing.assert_allclose(part.weight - weight, part.share * (whole.weight - weight))
    np.testing.assert_allclose(part.bias, part.share * whole.bias)


def test_a_refit_refuses_features_of_another_classifier(context):
    features, labels, mined, (weight, bias) = context
    known, of = np.zeros(60, int), np.ones(60, int)
    with pytest.raises(UsageError, match="the mined images have 2 features, the head 3"):
        refit(weight, bias, features, labels, mined[:, :2], known, of)
    with pytest.raises(UsageError, match="no mined images"):
        refit(weight, bias, features, labels, mined[:0], known[:0], of[:0])
