import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whylens.neural_pca import Census, Miner, census, class_components, mine


def drawn(seed, count, classes=3, size=4):
    """Ids, features, labels (some -1), captions, probabilities of `count` images."""
    generator = np.random.default_rng(seed)
    p = generator.dirichlet(np.ones(classes), size=count).astype(np.float32)
    labels = generator.integers(-1, classes, size=count)
    ids = [f"{seed}-{row}" for row in range(count)]
    features = generator.normal(size=(count, size)).astype(np.float32)
    return ids, features, labels, [f"text {name}" for name in ids], p


def counted(ids, features, labels, texts, p):
    """Of one part; images without a label count for class 0 among those to explain."""
    empty = Census.empty(p.shape[1], features.shape[1])
    taken = empty.with_images(features, np.maximum(labels, 0))
    return taken.with_pool(ids, features, labels, texts, p)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10**6),
    st.lists(st.integers(1, 8), min_size=1, max_size=5),
    st.randoms(use_true_random=False),
)
def test_parts_merged_in_any_order_tell_what_the_whole_tells(seed, sizes, order):
    parts = [counted(*drawn(seed + place, size)) for place, size in enumerate(sizes)]
    whole = [drawn(seed + place, size) for place, size in enumerate(sizes)]
    features = np.concatenate([part[1] for part in whole]).astype(np.float64)
    labels = np.concatenate([part[2] for part in whole])
    p = np.concatenate([part[4] for part in whole])
    order.shuffle(parts)
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    used = np.maximum(labels, 0)
    for k in range(3):
        mean, others = merged.means(k)
        if (used == k).any():
            np.testing.assert_allclose(mean, features[used == k].mean(0), atol=1e-12)
        if (used != k).any():
            np.testing.assert_allclose(others, features[used != k].mean(0), atol=1e-12)
        else:
            assert others is None
        if (labels != k).any():
            assert merged.base(k) == pytest.approx(p[labels != k, k].mean(dtype=np.float64))
    assert sorted(merged.texts) == sorted(text for part in whole for text in part[3])


def test_the_sample_is_the_same_however_the_images_are_shared_out(monkeypatch):
    monkeypatch.setattr(census, "SAMPLE", 20)
    ids, features, labels, texts, p = drawn(1, 100)
    one = counted(ids, features, labels, texts, p)
    parts = [
        counted(ids[a:b], features[a:b], labels[a:b], texts[a:b], p[a:b])
        for a, b in ((0, 30), (30, 31), (31, 100))
    ]
    merged = parts[0].merge(parts[1]).merge(parts[2])
    assert len(one.texts) == 20
    assert merged.texts.tolist() == one.texts.tolist()
    for place, text in enumerate(merged.texts):
        row = texts.index(text)
        np.testing.assert_array_equal(merged.features[place], features[row])
        assert merged.labels[place] == labels[row]


def test_a_census_survives_the_disk():
    for seen in (counted(*drawn(2, 9)), Census.empty(3, 4)):
        loaded = census.from_arrays(seen.to_arrays())
        for name, value in vars(seen).items():
            np.testing.assert_array_equal(getattr(loaded, name), value)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 40))
def test_mining_in_blocks_finds_what_mining_at_once_finds(seed, block, count):
    ids, features, labels, _, p = drawn(seed, 90)
    found = [class_components(k, np.ones(4) + k, 0.0, features[k::3], 3) for k in range(3)]
    miner = Miner(found, count)
    for start in range(0, 90, block):
        cut = slice(start, start + block)
        miner.add(np.asarray(ids[cut], object), features[cut], p[cut], labels[cut])
    for components, mined in zip(found, miner.results(), strict=True):
        k = components.class_index
        allowed = np.flatnonzero(labels != k)
        alphas = components.alphas(features)
        once = mine(components, features, p, labels, count)
        for c in range(3):
            rows = allowed[np.argsort(-alphas[allowed, c], kind="stable")[:count]]
            assert mined.rows[c].tolist() == [ids[row] for row in rows]
            assert once.rows[c].tolist() == rows.tolist()
            assert mined.labels[c].tolist() == labels[rows].tolist()
            np.testing.assert_allclose(mined.alphas[c], alphas[rows, c], rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(mined.profiles[c], alphas[rows], rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(mined.probabilities[c], p[rows, k])
            assert mined.predicted[c].tolist() == (p[rows].argmax(1) == k).tolist()
