import numpy as np
import pytest

from whylens.errors import UsageError
from whylens.neural_pca import (
    FeatureIndex,
    class_components,
    component_exemplars,
    mine,
    neighbours,
    neuron_exemplars,
)

SIZE = 12
LABELS = np.arange(400) % 4


@pytest.fixture(scope="module")
def features():
    generator = np.random.default_rng(0)
    centres = generator.gamma(1.0, 2.0, (4, SIZE))
    return np.maximum(centres[LABELS] + generator.normal(size=(400, SIZE)), 0).astype(np.float32)


@pytest.fixture(scope="module")
def index(features):
    return FeatureIndex.build(features, [f"i{row}" for row in range(400)], fingerprint="f00d")


@pytest.fixture(scope="module")
def components(features):
    weight = np.random.default_rng(1).normal(size=SIZE)
    return class_components(2, weight, 0.3, features[LABELS == 2], top=5)


def test_a_components_exemplars_come_with_their_alphas(features, index, components):
    of_class = np.flatnonzero(LABELS == 2)
    found = component_exemplars(index, components, 3, 7, among=of_class)
    alphas = components.alphas(features)[:, 3]
    expected = of_class[np.argsort(-alphas[of_class])[:7]]
    assert found.ids == tuple(f"i{row}" for row in expected)
    np.testing.assert_allclose(found.values, alphas[expected], atol=1e-4)
    assert len(component_exemplars(index, components, 3, 999, among=of_class).ids) == 100


def test_mining_with_the_index_is_the_sufficiency_checks_mining(features, index, components):
    probabilities = np.full((400, 4), 0.25)
    mined = mine(components, features, probabilities, LABELS, 30)
    for component in range(5):
        found = component_exemplars(
            index, components, component, 30, without=np.flatnonzero(LABELS == 2)
        )
        np.testing.assert_array_equal(found.rows, mined.rows[component])
        np.testing.assert_allclose(found.values, mined.alphas[component], atol=1e-4)


def test_a_neurons_exemplars_are_the_images_with_the_largest_feature(features, index):
    found = neuron_exemplars(index, 4, 6)
    np.testing.assert_array_equal(found.rows, np.argsort(-features[:, 4], kind="stable")[:6])
    np.testing.assert_allclose(found.values, np.sort(features[:, 4])[::-1][:6], rtol=1e-6)


@pytest.mark.parametrize("space", ["phi", "alpha"])
@pytest.mark.parametrize("limit", ["none", "among", "without"])
def test_neighbours_are_the_nearest_other_images(
    features, index, components, space, limit, monkeypatch
):
    monkeypatch.setattr("whylens.neural_pca.queries.BLOCK", 64)  # several blocks
    some = np.arange(0, 400, 3)
    limits = {} if limit == "none" else {limit: some}
    found = neighbours(
        index, "i9", 8, components=components if space == "alpha" else None, **limits
    )
    at = components.alphas(features) if space == "alpha" else features.astype(np.float64)
    distances = np.linalg.norm(at - at[9], axis=1)
    allowed = {"none": np.arange(400), "among": some, "without": np.setdiff1d(np.arange(400), some)}
    rows = np.setdiff1d(allowed[limit], [9])
    expected = rows[np.argsort(distances[rows])[:8]]
    np.testing.assert_array_equal(found.rows, expected)
    np.testing.assert_allclose(found.values, distances[expected], rtol=1e-3)


def test_what_is_not_there_is_named(index, components):
    with pytest.raises(UsageError, match="class 2 has 5 components, from 0 to 4: there is no 5"):
        component_exemplars(index, components, 5, 3)
    with pytest.raises(UsageError, match="12 neurons, from 0 to 11: there is no -1"):
        neuron_exemplars(index, -1, 3)
    with pytest.raises(UsageError, match="no image 'nobody'"):
        neighbours(index, "nobody", 3)
    small = FeatureIndex.build(np.ones((3, 4)), ["a", "b", "c"], fingerprint="f00d")
    with pytest.raises(UsageError, match=r"\[Q, 4\]"):
        component_exemplars(small, components, 0, 3)
    with pytest.raises(UsageError, match="12 features, the index holds 4"):
        neighbours(small, "a", 2, components=components)
