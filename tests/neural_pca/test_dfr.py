"""Deep feature reweighting against scikit-learn's own regression, and where a shortcut is known."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from whylens.errors import UsageError
from whylens.neural_pca.dfr import balanced, reweighted, worst_group


def test_with_equal_groups_and_one_draw_it_is_scikit_learns_regression():
    generator = np.random.default_rng(0)
    labels = np.arange(300) % 3
    features = generator.normal(size=(300, 5)) + labels[:, None] * np.arange(5) / 3
    found = reweighted(features, labels, labels, 3, strengths=(0.3,), draws=1)
    unit = (features - features.mean(0)) / features.std(0)
    own = LogisticRegression(C=0.3, max_iter=300).fit(unit, labels)
    logits = features @ found.weight.T + found.bias
    p = np.exp(logits - logits.max(1, keepdims=True))
    assert np.allclose(p / p.sum(1, keepdims=True), own.predict_proba(unit), atol=1e-3)
    two = reweighted(features[labels < 2], labels[labels < 2], labels[labels < 2], 4,
                     strengths=(1.0,), draws=1)  # fmt: skip
    said = (features[labels < 2] @ two.weight.T + two.bias).argmax(1)
    assert set(said) == {0, 1}
    assert (said == labels[labels < 2]).mean() > 0.6


def test_a_shortcut_is_left_where_groups_are_balanced():
    generator = np.random.default_rng(1)

    def drawn(count, follows):
        labels = generator.integers(0, 2, count)
        shortcut = np.where(generator.random(count) < follows, labels, 1 - labels)
        object_ = 2 * labels - 1 + generator.normal(size=count)
        features = np.stack([object_, 4 * shortcut + 0.1 * generator.normal(size=count)], 1)
        return features, labels, 2 * labels + shortcut

    features, labels, groups = drawn(4000, 0.95)
    plain = LogisticRegression().fit(features, labels)
    found = reweighted(features, labels, groups, 2)
    seen, truth, of = drawn(4000, 0.5)
    right = (seen @ found.weight.T + found.bias).argmax(1) == truth
    assert worst_group(plain.predict(seen) == truth, of) < 0.6
    # The object alone tells 84 % of the images apart.
    assert worst_group(right, of) == pytest.approx(0.84, abs=0.04)
    assert abs(found.weight[:, 1]).max() < 0.1 * abs(found.weight[:, 0]).max()


def test_groups_are_balanced_and_the_worst_one_counts():
    groups = np.r_[np.zeros(5, int), np.ones(20, int), np.full(7, 4)]
    rows = balanced(groups, np.random.default_rng(0))
    assert np.unique(groups[rows], return_counts=True)[1].tolist() == [5, 5, 5]
    assert len(np.unique(rows)) == 15
    right = np.r_[np.ones(5, bool), np.zeros(10, bool), np.ones(10, bool), np.ones(7, bool)]
    assert worst_group(right, groups) == 0.5


@pytest.mark.parametrize("groups", [[0, 0, 0, 0], [0, 0, 0, 1]])
def test_what_cannot_be_balanced_is_told(groups):
    with pytest.raises(UsageError, match="group"):
        reweighted(np.ones((4, 2)), np.array([0, 1, 0, 1]), np.array(groups), 2)
