import numpy as np
import pytest
import scipy.linalg
import torch

from whylens.guidance.measures import (
    change_by_place,
    diversity,
    feature_distance,
    features_of,
    frechet,
    frechet_of_gaussians,
    grown,
    l1,
    l2,
    split_frechet,
    transition,
)


def images(seed):
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def test_distances_are_those_of_numpy(classifier):
    before, after = images(0), images(1)
    gap = (after - before).numpy().reshape(3, -1)
    np.testing.assert_allclose(l1(before, after), np.abs(gap).mean(1), rtol=1e-5)
    np.testing.assert_allclose(l2(before, after), np.linalg.norm(gap, axis=1), rtol=1e-5)
    with torch.no_grad():
        x, y = (classifier.features(one).double().numpy() for one in (before, after))
    cosine = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    features = (features_of(classifier, one) for one in (before, after))
    np.testing.assert_allclose(feature_distance(*features), 1 - cosine, atol=1e-5)


def test_change_is_told_by_place():
    before = torch.zeros(3, 3, 8, 8)
    after = before.clone()
    after[:, :, 2:4, 2:4] = 0.5
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[0, 2:4, 2:4] = True  # all of the change
    masks[1, 2:4, 3:7] = True  # half of it
    inside, outside = change_by_place(before, after, masks)
    assert inside[:2].tolist() == pytest.approx([0.5, 0.125])
    assert outside.tolist() == pytest.approx([0, 0.5 * 2 / 56, 0.5 * 4 / 64])
    assert inside[2].isnan()


def test_masks_grow_by_their_margin():
    masks = torch.zeros(1, 9, 9, dtype=torch.bool)
    masks[0, 4, 1] = True
    expected = torch.zeros(9, 9, dtype=torch.bool)
    expected[2:7, 0:4] = True
    assert torch.equal(grown(masks, 2)[0], expected)
    assert torch.equal(grown(masks, 0), masks)


def test_frechet_of_diagonal_gaussians_is_the_formula():
    m, n = np.array([1.0, 0, -2]), np.array([0.0, 3, -2])
    s, t = np.array([1.0, 4, 9]), np.array([4.0, 4, 0])
    expected = ((m - n) ** 2).sum() + ((np.sqrt(s) - np.sqrt(t)) ** 2).sum()
    assert frechet_of_gaussians(m, np.diag(s), n, np.diag(t)) == pytest.approx(expected)


def test_frechet_is_that_of_the_matrix_root():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((40, 6)) @ rng.standard_normal((6, 6))
    b = rng.standard_normal((50, 6)) @ rng.standard_normal((6, 6)) + 0.5
    root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    gap = a.mean(0) - b.mean(0)
    expected = gap @ gap + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    assert frechet(a, b) == pytest.approx(expected, rel=1e-8)
    assert frechet(b, a) == pytest.approx(expected, rel=1e-8)
    assert frechet(a, a) == pytest.approx(0, abs=1e-8)
    # Fewer images than features: the covariances have no full rank.
    assert frechet(a[:4], a[:4] + 1.0) == pytest.approx(6, rel=1e-6)
    with pytest.raises(ValueError, match="two rows"):
        frechet(a[:1], b)


def test_split_frechet_holds_each_half_to_the_others_counterfactuals():
    rng = np.random.default_rng(3)
    before, change = rng.standard_normal((21, 4)), rng.standard_normal((21, 4))
    order = np.random.default_rng(5).permutation(21)
    one, other = order[:10], order[10:]
    after = before + change
    expected = (frechet(before[one], after[other]) + frechet(before[other], after[one])) / 2
    assert split_frechet(before, after, seed=5) == pytest.approx(expected)
    # What changes nothing is not perfect: the halves differ.
    assert split_frechet(before, before) > 0.01
    with pytest.raises(ValueError, match="four images"):
        split_frechet(before[:3], after[:3])


class ByBrightPixels:
    """p of class 1 is the share of pixels above a half, of class 0 the rest."""

    def probabilities(self, images):
        share = (images.mean(1) > 0.5).float().flatten(1).mean(1)
        return torch.stack([1 - share, share], 1)


def test_the_transition_is_the_area_between_two_curves():
    before, after = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    after[0] = 0.9  # every pixel counts alike
    after[1, :, 0, 0] = 0.9  # one of sixteen pixels changes
    classes = torch.zeros(2, dtype=torch.long), torch.ones(2, dtype=torch.long)
    found = transition(ByBrightPixels(), before, after, *classes, steps=8)
    # p of the target rises in a line from 0 to 1, that of the source falls: the areas are equal.
    share = np.linspace(0, 1, 9)
    assert float(found[0]) == pytest.approx(np.trapezoid(share - (1 - share), share), abs=1e-6)
    # After the first step nothing changes any more: 1/16 against 15/16.
    curve = np.array([-1.0] + [1 / 16 - 15 / 16] * 8)
    assert float(found[1]) == pytest.approx(np.trapezoid(curve, share), abs=1e-6)
    same = transition(ByBrightPixels(), after, after, *classes, steps=4)
    assert float(same[0]) == pytest.approx(1.0)


def test_diversity_is_the_mean_angle_between_pairs_of_one_image():
    rows = [[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 1.0]]
    # Of a: cosines 0, 1 and 0 of three pairs; of c: one of 45 degrees; b has no other.
    found = diversity(rows, ["a", "a", "a", "c", "c", "b"])
    assert found == pytest.approx(((1 + 0 + 1) / 3 + (1 - 0.5**0.5)) / 2)
    assert diversity(rows[:2], ["a", "b"]) is None
