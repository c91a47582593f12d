import numpy as np
import pytest

from whylens.errors import UsageError
from whylens.neural_pca import FeatureIndex, class_components


def clustered(count=600, size=16, seed=0):
    """Features [N, D] in groups, as a classifier's are; float32, non-negative."""
    generator = np.random.default_rng(seed)
    centres = np.maximum(generator.normal(size=(20, size)) * 2, 0)
    features = (
        centres[generator.integers(20, size=count)] + generator.normal(size=(count, size)) / 3
    )
    return np.maximum(features, 0).astype(np.float32)


def build(features, factory="Flat"):
    ids = [f"image-{row}" for row in range(len(features))]
    return FeatureIndex.build(features, ids, fingerprint="f00d", factory=factory)


def brute(features, queries, count):
    """(scores, rows) by a full sort."""
    scores = queries.astype(np.float64) @ features.astype(np.float64).T
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(scores, rows, 1), rows


def test_exemplars_are_the_images_with_the_largest_alphas():
    features = clustered()
    weight = np.random.default_rng(1).normal(size=16)
    found = class_components(0, weight, 0.1, features[:100], top=8)
    scores, rows = build(features).search(found.directions, 5)
    alphas = found.alphas(features)
    expected = np.argsort(-alphas, axis=0)[:5].T
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_allclose(
        scores - found.offsets[:, None], np.take_along_axis(alphas.T, expected, 1), atol=1e-4
    )


@pytest.mark.parametrize("factory", ["Flat", "IVF16,Flat", "SQfp16", "IVF16,SQfp16"])
def test_exemplars_of_one_class_are_its_own_largest_whatever_the_index(factory):
    features = clustered()
    queries = np.random.default_rng(2).normal(size=(9, 16))
    among = np.arange(5, 600, 13)
    scores, rows = build(features, factory).search(queries, 6, among=among)
    expected_scores, expected = brute(features[among], queries, 6)
    if "SQ" not in factory:
        np.testing.assert_array_equal(rows, among[expected])
    assert set(rows.ravel()) <= set(among)
    np.testing.assert_allclose(scores, expected_scores, rtol=2e-3, atol=2e-2)


@pytest.mark.parametrize("factory", ["IVF64,Flat", "IVF64,SQfp16"])
def test_an_approximate_index_finds_nearly_all_that_the_exact_one_does(factory):
    features = clustered(3000)
    found = class_components(0, np.random.default_rng(3).normal(size=16), 0, features[:300], top=12)
    _, rows = build(features, factory).search(found.directions, 10)
    _, expected = brute(features, found.directions, 10)
    hits = [len(set(a) & set(b)) for a, b in zip(rows, expected, strict=True)]
    assert np.mean(hits) >= 9


def test_where_there_are_fewer_images_than_asked_the_rest_is_marked():
    _, rows = build(clustered(30)).search(np.ones((1, 16)), 4, among=np.array([7, 3]))
    assert set(rows[0, :2]) == {3, 7}
    assert rows[0, 2:].tolist() == [-1, -1]
    _, rows = build(clustered(3)).search(np.ones((1, 16)), 5)
    assert sorted(rows[0]) == [-1, -1, 0, 1, 2]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_image_whose_features_are_not_finite_is_named(value):
    features = clustered(10)
    features[6, 3] = value
    with pytest.raises(UsageError, match="image-6"):
        build(features)


def test_what_faiss_can_not_build_is_a_usage_error():
    with pytest.raises(UsageError, match="nonsense"):
        build(clustered(10), "nonsense")
    with pytest.raises(UsageError, match=r"IVF64,Flat.*10 images"):
        build(clustered(10), "IVF64,Flat")
    with pytest.raises(UsageError, match="10 features but 2 ids"):
        FeatureIndex.build(clustered(10), ["a", "b"], fingerprint="f00d")


@pytest.mark.parametrize("factory", ["Flat", "IVF16,Flat"])
def test_a_saved_index_answers_as_before(tmp_path, factory):
    features = clustered()
    queries = np.random.default_rng(5).normal(size=(4, 16))
    index = build(features, factory)
    index.save(tmp_path / "index")
    loaded = FeatureIndex.load(tmp_path / "index", fingerprint="f00d")
    assert loaded.ids == index.ids
    for among in (None, np.arange(0, 600, 7)):
        for before, after in zip(
            index.search(queries, 5, among=among),
            loaded.search(queries, 5, among=among),
            strict=True,
        ):
            np.testing.assert_array_equal(after, before)


def test_an_index_of_another_classifier_or_of_none_is_refused(tmp_path):
    build(clustered(20)).save(tmp_path)
    with pytest.raises(UsageError, match=r"f00d.*beef.*build it again"):
        FeatureIndex.load(tmp_path, fingerprint="beef")
    with pytest.raises(UsageError, match="no index in"):
        FeatureIndex.load(tmp_path / "nowhere", fingerprint="f00d")
