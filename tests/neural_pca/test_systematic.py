"""What a search from generated images finds, in features whose truth is known."""

import numpy as np
import pytest
from scipy import stats

from whylens.neural_pca import FeatureIndex
from whylens.neural_pca.systematic import (
    gather,
    most_alike,
    nearest_rows,
    surely_absent,
    systematic_errors,
)


def indexed(features):
    ids = [f"image-{row}" for row in range(len(features))]
    return FeatureIndex.build(features, ids, fingerprint="any")


def around(generator, centre, count, spread=0.15):
    return centre + spread * generator.normal(size=(count, len(centre)))


@pytest.fixture
def world():
    """60 images of one feature and 40 of another that fail, 30 that fail here and there among 300
    that do not, 50 that show the object; as rows, and what each is."""
    generator = np.random.default_rng(0)
    size = 12
    first, second, own = np.eye(size)[:3] * 3
    rest = generator.normal(size=(330, size))
    features = np.concatenate(
        [around(generator, first, 60), around(generator, second, 40), rest,
         around(generator, own, 50)]
    )  # fmt: skip
    absent = np.r_[np.ones(430, bool), np.zeros(50, bool)]
    fails = np.r_[np.ones(100, bool), np.zeros(380, bool)]
    fails[100 + np.arange(30) * 11] = True
    called = fails | ~absent
    return features.astype(np.float32), absent, called, np.stack([first, second])


def test_the_nearest_rows_have_the_largest_cosines(world):
    features, _, _, queries = world
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    expected = np.argsort(-(queries / 3 @ unit.T), axis=1)[:, :7]
    assert np.array_equal(nearest_rows(indexed(features), queries, 7), expected)
    among = np.arange(0, 480, 3)
    found = nearest_rows(indexed(features), queries, 7, among)
    expected = among[np.argsort(-(queries / 3 @ unit[among].T), axis=1)[:, :7]]
    assert np.array_equal(found, expected)
    assert nearest_rows(indexed(features), queries, 3, among[:2])[:, 2].tolist() == [-1, -1]
    assert (
        most_alike(features, queries[1], 3).tolist()
        == nearest_rows(indexed(features), queries[1:], 3)[0].tolist()
    )


def test_what_fails_alike_is_found_whole_and_single_errors_are_none(world):
    features, absent, called, queries = world
    index = indexed(features)
    found = gather(index, queries, lambda rows: (absent[rows], called[rows]), count=20)
    assert found.exhausted
    assert len(np.unique(found.rows)) == len(found.rows)
    assert np.array_equal(found.failed, absent[found.rows] & called[found.rows])
    # Exploring brings twenty images each; what fails brings the others.
    assert (found.rounds == 0).sum() == 40
    assert set(range(100)) <= set(found.rows.tolist())
    p = np.where(called, 0.9, 0.1)[found.rows]
    errors = systematic_errors(index, found, p, np.arange(len(p)) % 3)
    assert [sorted(error.rows.tolist()) for error in errors] == [
        list(range(60)), list(range(60, 100))
    ]  # fmt: skip
    assert [error.looks_like for error in errors] == [None, None]
    first = np.isin(found.rows, np.arange(50))
    alike = systematic_errors(index, found, p, np.where(first, 7, np.arange(len(p)) % 3))
    assert [error.looks_like for error in alike] == [7, None]
    for error in errors:
        assert set(error.rows.tolist()) <= set(error.near.tolist())
        assert error.rate == pytest.approx((absent & called)[error.near].mean())
        assert error.low < error.rate <= error.high
        assert error.probability.low <= error.probability.mean <= error.probability.high


def test_images_that_show_the_object_are_no_errors(world):
    features, absent, called, _ = world
    own = features[-50:].mean(0, keepdims=True)
    found = gather(indexed(features), own, lambda rows: (absent[rows], called[rows]), count=20)
    assert (~found.absent).sum() >= 20
    assert not found.failed[~found.absent].any()
    assert systematic_errors(indexed(features), found, np.ones(len(found.rows)),
                             np.zeros(len(found.rows), int)) == []  # fmt: skip


def test_copies_count_once(world):
    features, absent, called, queries = world
    twice = np.concatenate([features, 1.01 * features])
    found = gather(
        indexed(twice),
        queries,
        lambda rows: (np.tile(absent, 2)[rows], np.tile(called, 2)[rows]),
        count=40,
    )
    originals = found.rows % len(features)
    assert len(np.unique(originals)) == len(originals)
    assert set(range(100)) <= set(originals.tolist())


def test_a_judge_is_sure_of_what_has_no_more_evidence_than_nineteen_of_twenty_others():
    others = np.arange(1, 100) / 1000
    # As much evidence have all, half, six, three and none of ninety-nine others.
    evidence = np.array([0.0, 0.05, 0.094, 0.097, 0.5])
    assert surely_absent(evidence, others).tolist() == [True, True, True, False, False]
    assert surely_absent(evidence, others[::-1]).tolist() == [True, True, True, False, False]
    assert not surely_absent(np.array([np.nan]), others).any()
    # Ten others tell nothing.
    assert surely_absent(evidence, others[:10]).all()


def test_of_images_without_the_object_a_judge_is_unsure_of_one_in_twenty():
    """And of those whose object it overlooks, of as many as lie in that twentieth."""
    generator = np.random.default_rng(0)
    without, overlooked = stats.beta(0.2, 20), stats.beta(3, 60)
    others = without.rvs(20_000, random_state=generator)
    sure = surely_absent(without.rvs(20_000, random_state=generator), others)
    assert sure.mean() == pytest.approx(0.95, abs=0.01)
    sure = surely_absent(overlooked.rvs(20_000, random_state=generator), others)
    assert sure.mean() == pytest.approx(overlooked.cdf(without.ppf(0.95)), abs=0.02)
