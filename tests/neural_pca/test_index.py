from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from whylens.errors import UsageError
from whylens.neural_pca import FeatureIndex, ShardedIndex, class_components
from whylens.neural_pca.index import calibrated, load_index, pack_index, save_index, unpack_index


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
    save_index(index, tmp_path / "index")
    loaded = load_index(tmp_path / "index", fingerprint="f00d")
    assert loaded.ids == index.ids
    for among in (None, np.arange(0, 600, 7)):
        for before, after in zip(
            index.search(queries, 5, among=among),
            loaded.search(queries, 5, among=among),
            strict=True,
        ):
            np.testing.assert_array_equal(after, before)


def test_an_index_of_another_classifier_or_of_none_is_refused(tmp_path):
    save_index(build(clustered(20)), tmp_path)
    with pytest.raises(UsageError, match=r"f00d.*beef.*build it again"):
        load_index(tmp_path, fingerprint="beef")
    with pytest.raises(UsageError, match="no index in"):
        load_index(tmp_path / "nowhere", fingerprint="f00d")


def test_an_approximate_index_is_set_to_the_recall_that_is_asked_for():
    features = clustered(3000)
    found = class_components(0, np.random.default_rng(3).normal(size=16), 0, features[:300], top=12)
    fresh = class_components(1, np.random.default_rng(4).normal(size=16), 0, features[300:600], 12)
    index, recall = calibrated(
        build(features, "IVF64,PQ8x4fs,RFlat"), features, found.directions, recall=0.97
    )
    assert recall >= 0.97
    _, rows = index.search(found.directions, 5)
    _, expected = brute(features, found.directions, 5)
    assert hits(rows, expected) == pytest.approx(recall)
    _, rows = index.search(fresh.directions, 5)
    _, expected = brute(features, fresh.directions, 5)
    assert hits(rows, expected) > 0.9
    # It looks at less than everything for it.
    assert index.search_parameters != "nprobe=64,k_factor_rf=512"


def test_an_index_too_coarse_for_a_recall_says_so(caplog):
    features = clustered(3000)
    _, recall = calibrated(build(features, "PQ2x4"), features, features[:50] - 1, recall=0.99)
    assert recall < 0.99
    index, best = calibrated(
        build(features, "IVF64,PQ2x4"), features, features[:50] - 1, recall=1.0
    )
    assert best < 1
    assert "100 % are asked for" in caplog.text
    assert index.search_parameters.startswith("nprobe=")


def hits(rows, expected):
    """Mean share of the expected rows that were found."""
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(rows, expected, strict=True)])


@pytest.mark.parametrize("factory", ["PCA12,Flat", "PCA12,IVF16,Flat"])
def test_short_queries_are_not_lost_in_a_projection(factory):
    """faiss adds the projection's offset to queries, too: it outweighs short ones."""
    features = clustered(2000) + 3
    directions = np.linalg.svd(features - features.mean(0), full_matrices=False)[2][:5]
    for scale in (1.0, 1e-4):
        _, rows = build(features, factory).search(directions * scale, 10)
        _, expected = brute(features, directions * scale, 10)
        assert hits(rows, expected) > 0.8


@pytest.mark.parametrize("factory", ["Flat", "IVF16,Flat", "HNSW16", "PQ8x4fs,RFlat"])
@pytest.mark.parametrize("share", [0.03, 0.9])
def test_images_left_out_are_not_found_and_the_next_ones_are(factory, share):
    features = clustered()
    queries = np.random.default_rng(2).normal(size=(9, 16))
    by_score = brute(features, queries[:1], 600)[1][0]
    without = by_score[: int(600 * share)]  # the first query's best
    _, rows = build(features, factory).search(queries, 6, without=without)
    left = np.setdiff1d(np.arange(600), without)
    _, expected = brute(features[left], queries, 6)
    assert not set(rows.ravel()) & set(without)
    if factory == "Flat":
        np.testing.assert_array_equal(rows, left[expected])
    else:
        assert hits(rows[:1], left[expected[:1]]) > 0.5


def test_all_images_left_out_leave_none():
    index = build(clustered(30))
    scores, rows = index.search(np.ones((2, 16)), 4, without=np.arange(29))
    assert rows.tolist() == [[29, -1, -1, -1]] * 2
    assert np.isneginf(scores[:, 1:]).all()
    _, rows = index.search(np.ones((1, 16)), 2, among=np.arange(9), without=np.arange(9))
    assert rows.tolist() == [[-1, -1]]


@pytest.fixture
def sharded():
    """(the same features in three unequal shards, all of them)."""
    features = clustered()
    ids = [f"image-{row}" for row in range(len(features))]
    trained = FeatureIndex.train(features, ids, fingerprint="f00d")
    bounds = [0, 50, 420, 600]
    return ShardedIndex(
        tuple(trained.filled(features[a:b], ids[a:b]) for a, b in pairwise(bounds))
    ), features


@pytest.mark.parametrize("limit", ["none", "among", "without"])
def test_shards_answer_as_one_index_does(sharded, limit):
    shards, features = sharded
    queries = np.random.default_rng(2).normal(size=(9, 16))
    some = np.arange(0, 600, 7)
    limits = {} if limit == "none" else {limit: some}
    scores, rows = shards.search(queries, 60, **limits)
    one_scores, one_rows = build(features).search(queries, 60, **limits)
    np.testing.assert_array_equal(rows, one_rows)
    np.testing.assert_allclose(scores, one_scores, rtol=1e-5)
    assert shards.ids == build(features).ids
    np.testing.assert_array_equal(shards.features(rows[0]), features[rows[0]])
    assert [shards.row_of(f"image-{row}") for row in (0, 49, 50, 599)] == [0, 49, 50, 599]


def test_shards_trained_once_share_what_was_learned():
    features = clustered(2000)
    trained = FeatureIndex.train(
        features[::2],
        [str(row) for row in range(0, 2000, 2)],
        fingerprint="f00d",
        factory="IVF16,PQ8x4fs,RFlat",
    )
    assert trained.ids == ()
    queries = np.random.default_rng(5).normal(size=(20, 16))
    shards = []
    for first in (0, 1000):
        part = features[first : first + 1000]
        shard = trained.filled(part, [str(first + row) for row in range(1000)])
        shards.append(calibrated(shard, part, queries)[0])
    _, rows = ShardedIndex(tuple(shards)).search(queries, 5)
    assert hits(rows, brute(features, queries, 5)[1]) >= 0.9


def test_shards_that_do_not_belong_together_are_refused():
    shard = build(clustered(20))
    other = FeatureIndex.build(clustered(20), shard.ids, fingerprint="beef")
    with pytest.raises(UsageError, match=r"beef.*f00d"):
        ShardedIndex((shard, other))
    with pytest.raises(UsageError, match=r"16 and of 8"):
        ShardedIndex((shard, build(clustered(20, size=8))))
    with pytest.raises(UsageError, match="no shards"):
        ShardedIndex(())


def test_what_does_not_fit_an_index_is_named():
    index = build(clustered(20))
    with pytest.raises(UsageError, match=r"\[Q, 16\].*\[1, 15\]"):
        index.search(np.ones((1, 15)), 3)
    with pytest.raises(UsageError, match="query is not finite"):
        index.search(np.full((1, 16), np.nan), 3)
    with pytest.raises(UsageError, match="15 values, the index 16"):
        index.filled(np.ones((2, 15)), ["a", "b"])
    with pytest.raises(UsageError, match="no features"):
        build(np.zeros((0, 16)))
    with pytest.raises(UsageError, match="image-20"):
        index.row_of("image-20")


@pytest.mark.parametrize("factory", ["SQfp16", "IVF16,SQfp16", "PCA12,IVF16,PQ4x4fs,RFlat"])
def test_a_packed_index_answers_as_before(tmp_path, factory):
    features = clustered(2000)
    queries = np.random.default_rng(5).normal(size=(4, 16))
    index, _ = calibrated(build(features, factory), features, queries)
    save_index(index, tmp_path, "shard-0")
    mapped = load_index(tmp_path, fingerprint="f00d", name="shard-0")
    for copy in (unpack_index(*pack_index(index)), mapped):
        assert copy.search_parameters == index.search_parameters
        np.testing.assert_array_equal(copy.search(queries, 5)[1], index.search(queries, 5)[1])
        np.testing.assert_allclose(copy.features(np.arange(9)), features[:9], atol=5e-3)
    assert str(tmp_path) in Path("/proc/self/maps").read_text()


def test_what_a_gpu_does_not_answer_the_index_itself_does():
    """A GPU has a largest number of answers; more are searched where some are left out."""
    index, asked = build(clustered()), []

    class Limited:
        def search(self, queries, count):
            asked.append(count)
            if count > 20:
                raise RuntimeError("k (24) > max k supported (20)")
            return index.index.search(queries, count)

    queries = np.random.default_rng(3).normal(size=(4, 16))
    _, order = brute(clustered(), queries, 600)
    without = np.unique(order[:, :15])
    found = replace(index, on_device=Limited()).search(queries, 6, without=without)
    for own, wanted in zip(found, index.search(queries, 6, without=without), strict=True):
        np.testing.assert_array_equal(own, wanted)
    assert max(asked) > 20
    assert min(asked) <= 20
