from typing import NamedTuple

import numpy as np
import pytest

from whylens.neural_pca import (
    Asked,
    Reference,
    class_components,
    judge,
    judge_classes,
    mine,
    typical_words,
    with_verdicts,
)

OBJECT, MOSS, SHADE, FROST = range(4)
# Logits of two classes: class 0 is raised by its object and by moss, which is enough alone, and
# hardly by shade; frost comes with moss wherever class 0 is not.
WEIGHT = np.array([[4.0, 5.0, 0.8, 2.0], [0.0, 0.0, 0.0, 0.0]])
BIAS = np.array([-3.0, 0.0])


class World(NamedTuple):
    inside: np.ndarray
    others: np.ndarray
    pool: np.ndarray
    probabilities: np.ndarray
    without: np.ndarray
    has_moss: np.ndarray

    @property
    def labels(self):
        return np.where(self.without, -1, 0)


def softmax(features):
    logits = features @ WEIGHT.T + BIAS
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def world(seed=0):
    """Class 0 varies in every feature, shade most, in all combinations, so that each feature is a
    component; a pool in which moss and shade come alone in some images without the class."""
    generator = np.random.default_rng(seed)
    levels = np.meshgrid(*[np.linspace(0, top, 4) for top in (1.0, 1.3, 9.0, 1.0)])
    inside = np.stack([level.ravel() for level in levels], 1)
    others = generator.uniform(0, [0.05, 0.05, 0.4, 0.05], size=(400, 4))
    pool = generator.uniform(0, [0.05, 0.05, 0.4, 0.05], size=(300, 4))
    has_moss = np.zeros(300, dtype=bool)
    has_moss[:40] = True
    pool[:40, MOSS] += generator.uniform(1.2, 1.6, size=40)
    pool[:40, FROST] += 0.5 * pool[:40, MOSS]
    pool[40:80, SHADE] += 1.0
    pool[80:110, OBJECT] += 2.0
    without = np.ones(300, dtype=bool)
    without[80:110] = False
    return World(inside, others, pool, softmax(pool), without, has_moss)


def component_of(found, feature):
    """The component that lies along one feature."""
    along = np.abs(found.vectors[:, feature])
    assert along.max() > 0.999
    return int(along.argmax())


# In turns, so that moss and shade come with each class.
CLASSES = np.arange(300) % 6 + 1


def labels_of(seen):
    """Labels of the pool: six other classes, in turns."""
    return np.where(seen.without, CLASSES, 0)


def around(seen, others=None, probabilities=None, strata=CLASSES):
    """What the judge is told of other images, calculated directly."""
    probabilities = seen.probabilities if probabilities is None else probabilities
    others = seen.others if others is None else others
    p = probabilities[seen.without, 0]
    return Reference(
        seen.inside.mean(0),
        others.mean(0),
        float(softmax(seen.inside)[:, 0].mean()),
        float(p.mean()),
        seen.pool[seen.without],
        p,
        strata[seen.without],
    )


def verdict_on(*arguments):
    (evidence,) = with_verdicts([judge(*arguments)], 0.05)
    return evidence


@pytest.fixture(scope="module")
def judged():
    seen = world()
    found = class_components(0, WEIGHT[0], BIAS[0], seen.inside, top=4)
    mined = mine(found, seen.pool, seen.probabilities, labels_of(seen), 20)
    return seen, found, mined, verdict_on(found, mined, around(seen))


def test_mining_finds_the_most_activating_images_without_the_class(judged):
    seen, found, mined, _ = judged
    alphas = found.alphas(seen.pool)
    for component in range(4):
        ranked = sorted(np.flatnonzero(seen.without), key=lambda row: -alphas[row, component])
        rows = ranked[:20]
        assert mined.rows[component].tolist() == rows
        np.testing.assert_allclose(mined.alphas[component], alphas[rows, component])
        np.testing.assert_allclose(mined.probabilities[component], seen.probabilities[rows, 0])
        won = seen.probabilities[rows, 0] > seen.probabilities[rows, 1]
        np.testing.assert_array_equal(mined.predicted[component], won)
        assert mined.share[component] == pytest.approx(won.mean())
        assert mined.mean_probability[component] == pytest.approx(
            seen.probabilities[rows, 0].mean()
        )


def test_mining_a_small_pool_gives_all_of_it():
    seen = world()
    found = class_components(0, WEIGHT[0], BIAS[0], seen.inside, top=3)
    only = np.zeros(300, dtype=bool)
    only[[5, 17, 60]] = True
    mined = mine(found, seen.pool, seen.probabilities, np.where(only, -1, 0), 75)
    assert mined.rows.shape == (3, 3)
    assert all(set(rows) == {5, 17, 60} for rows in mined.rows)


def test_a_feature_that_triggers_the_class_alone_is_suspicious_and_one_that_does_not_is_not(judged):
    seen, found, mined, evidence = judged
    moss, shade = component_of(found, MOSS), component_of(found, SHADE)
    assert seen.has_moss[mined.rows[moss]].all()
    assert evidence.suspicious[moss]
    assert evidence.sufficiency_share[moss] == pytest.approx(1)
    assert evidence.suspicion[moss] > 0.8
    # Shade varies most in the class, and raises its logit, but not enough alone.
    assert shade == 0
    assert not evidence.suspicious[shade]
    assert evidence.sufficiency_share[shade] == 0


def test_the_object_itself_is_not_suspicious(judged):
    _, found, _, evidence = judged
    assert not evidence.suspicious[component_of(found, OBJECT)]


def test_evidence_is_what_its_definition_says(judged):
    seen, found, mined, evidence = judged
    covariance = np.cov((seen.inside * WEIGHT[0]).T, bias=True)
    shares = np.linalg.eigvalsh(covariance)[::-1] / np.trace(covariance)
    np.testing.assert_allclose(evidence.variance_share, shares)
    base = seen.probabilities[seen.without, 0].mean()
    np.testing.assert_allclose(evidence.lift, mined.mean_probability / base)
    gap = (seen.inside @ WEIGHT[0]).mean() - (seen.others @ WEIGHT[0]).mean()
    apart = found.alphas(seen.inside).mean(0) - found.alphas(seen.others).mean(0)
    np.testing.assert_allclose(evidence.contrast_share, apart / gap)
    # All four components together carry the whole difference.
    assert evidence.contrast_share.sum() == pytest.approx(1)


def test_where_every_image_gets_the_class_nothing_is_suspicious():
    seen = world()
    found = class_components(0, WEIGHT[0], BIAS[0], seen.inside, top=4)
    eager = np.tile([0.9, 0.1], (300, 1))
    mined = mine(found, seen.pool, eager, labels_of(seen), 20)
    evidence = verdict_on(found, mined, around(seen, probabilities=eager))
    np.testing.assert_allclose(evidence.sufficiency_mean_p, 0.9)
    np.testing.assert_allclose(evidence.lift, 1.0)
    np.testing.assert_allclose(evidence.expected_p, 0.9)
    assert not evidence.suspicious.any()
    assert evidence.suspicion.max() == pytest.approx(0, abs=1e-9)


def test_a_class_that_looks_alike_is_no_feature():
    seen = world()
    found = class_components(0, WEIGHT[0], BIAS[0], seen.inside, top=4)
    moss = component_of(found, MOSS)
    # All that show moss are of one class, the others of five more.
    alike = np.where(seen.has_moss, 9, CLASSES)
    labels = np.where(seen.without, alike, 0)
    mined = mine(found, seen.pool, seen.probabilities, labels, 60)
    assert (labels[mined.rows[moss]] == 9).sum() == 40
    evidence = verdict_on(found, mined, around(seen, strata=alike))
    assert evidence.sufficiency_mean_p[moss] > 0.6
    assert not evidence.suspicious[moss]
    assert evidence.strata_p_low[moss] < 0.1
    # The same images count where moss comes with every class.
    mined = mine(found, seen.pool, seen.probabilities, labels_of(seen), 60)
    assert verdict_on(found, mined, around(seen)).suspicious[moss]


def test_images_of_one_other_class_alone_have_no_interval():
    seen = world()
    found = class_components(0, WEIGHT[0], BIAS[0], seen.inside, top=4)
    moss = component_of(found, MOSS)
    strata = np.where(seen.has_moss, 9, CLASSES)
    labels = np.where(seen.without, strata, 0)
    mined = mine(found, seen.pool, seen.probabilities, labels, 20)
    evidence = verdict_on(found, mined, around(seen, strata=strata))
    assert np.isnan(evidence.strata_p_low[moss])
    assert (evidence.strata[moss], evidence.p_value[moss]) == (1, 1)
    assert evidence.suspicion[moss] == 0


def test_where_there_is_but_one_other_class_its_images_are_compared():
    seen = world()
    found = class_components(0, WEIGHT[0], BIAS[0], seen.inside, top=4)
    moss, shade = component_of(found, MOSS), component_of(found, SHADE)
    # Without labels the other class of two stands in.
    mined = mine(found, seen.pool[seen.without], seen.probabilities[seen.without],
                 np.full(seen.without.sum(), -1), 20)  # fmt: skip
    assert (mined.strata == 1).all()
    evidence = verdict_on(found, mined, around(seen, strata=np.ones(300, int)))
    assert evidence.suspicious[moss]
    assert not evidence.suspicious[shade]
    assert evidence.strata[moss] == 1


def test_what_is_asked_for_is_what_such_images_get_and_more(judged):
    seen, found, mined, _ = judged
    p, own = seen.probabilities[:, 0], softmax(seen.inside)[:, 0].mean()
    base = {
        c: (p[seen.without & (c == CLASSES)].sum() + 5 * p[seen.without].mean())
        / ((seen.without & (c == CLASSES)).sum() + 5)
        for c in range(1, 7)
    }
    of_mined = np.array([[base[CLASSES[row]] for row in rows] for rows in mined.rows])
    gains = p[mined.rows.astype(int)].mean(1) / of_mined.mean(1)
    evidence = judge(found, mined, around(seen), Asked(2.0, 0.25))
    for component in range(4):
        # A typical component is the median one of the others; below 1 it raises nothing.
        typical = max(1, np.median(np.delete(gains, component)))
        lowest, highest = of_mined[component].min() * typical, of_mined[component].max() * typical
        assert lowest <= evidence.expected_p[component] <= highest
        asked = evidence.asked_p[component]
        parts = [max(2 * e, e + 0.25 * (own - e)) for e in (lowest, highest)]
        assert parts[0] <= asked <= parts[1]


def test_a_component_that_lowers_the_class_against_others_is_not_suspicious():
    seen = world()
    found = class_components(0, WEIGHT[0], BIAS[0], seen.inside, top=4)
    moss = component_of(found, MOSS)
    mossy = seen.others + 3.0 * (np.arange(4) == MOSS)
    mined = mine(found, seen.pool, seen.probabilities, seen.labels, 20)
    evidence = verdict_on(found, mined, around(seen, others=mossy))
    assert evidence.sufficiency_mean_p[moss] > 0.8
    assert evidence.suspicion[moss] == 0
    assert not evidence.suspicious[moss]


def test_components_that_the_same_images_activate_are_one_feature(judged):
    _, found, _, evidence = judged
    moss, frost, shade = (component_of(found, f) for f in (MOSS, FROST, SHADE))
    assert evidence.same_as[frost] == evidence.same_as[moss]
    assert evidence.same_as[moss] in (moss, frost)
    assert evidence.same_as[shade] == shade


def test_words_of_heavily_weighted_texts_name_the_feature():
    texts = ["a photo of a boat on moss"] * 10 + ["a photo of a boat on sand"] * 90
    weights = np.array([1.0] * 10 + [0.01] * 90)
    words = typical_words(texts, weights)
    assert words[0][0] == "moss"
    share, base, prior = 10 / weights.sum(), 0.1, 5
    assert words[0][1] == pytest.approx((share * 100 + prior * base) / (base * 100 + prior * base))
    assert not {"a", "photo", "of", "on", "sand"} & {word for word, _ in words}


def test_words_are_found_in_names_too_and_rare_ones_are_left_out():
    texts = ["Sea_Lion, eared", "sea lion", "dog", "cat", "tree frog"]
    words = dict(typical_words(texts, np.array([1.0, 1.0, 0.0, 0.0, 0.2])))
    assert set(words) == {"sea", "lion", "eared"}
    assert words["sea"] == words["lion"]


def test_no_weight_or_no_texts_have_no_words():
    assert typical_words(["a boat", "a moon"], np.zeros(2)) == []
    assert typical_words([], np.zeros(0)) == []


def test_classes_in_memory_are_judged_by_the_heads_own_probabilities():
    rng = np.random.default_rng(8)
    labels = np.arange(300) % 3
    features = rng.normal(size=(300, 6)) + 2 * np.eye(3, 6)[labels]
    weight, bias = rng.normal(size=(3, 6)), rng.normal(size=3)
    logits = features @ weight.T + bias
    softmaxed = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    wanted = {"softmax": softmaxed, "sigmoid": 1 / (1 + np.exp(-logits))}
    for activation, p in wanted.items():
        images = features, labels
        found = judge_classes(
            (weight, bias), images, images, range(3), top=4, mined=12, activation=activation
        )
        for k, judged in enumerate(found):
            rows = judged.mined.rows.astype(int)
            assert (labels[rows] != k).all()
            np.testing.assert_allclose(judged.mined.probabilities, p[rows, k])
            np.testing.assert_allclose(judged.evidence.sufficiency_mean_p, p[rows, k].mean(1))
