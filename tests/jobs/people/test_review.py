"""Which component a reviewer sees next, and how far reviewers agree."""

import itertools

import pytest

from whylens.jobs.people.review import (
    Order,
    agreement,
    differing,
    mean_kappa,
    queue,
    views_of,
)
from whylens.jobs.report.parts.finding import bare

# Class, component, rank (0: no finding), suspicion.
COMPONENTS = [(0, 0, 0, 0.1), (0, 1, 2, 0.3), (1, 0, 0, 0.7), (1, 1, 1, 0.2), (2, 0, 0, None)]
EVERY = [
    bare({"class_index": k, "component": c, "rank": rank, "suspicion": suspicion})
    for k, c, rank, suspicion in COMPONENTS
]


def rows(text):
    """Rows of labels: 'ada:0-1:spurious ...', in order of time."""
    for word in text.split():
        who, key, label = word.split(":")
        k, c = map(int, key.split("-"))
        yield {"who": who, "class_index": k, "component": c, "label": label.replace("_", " ")}


def views(text):
    said = {}
    for row in rows(text):
        said.setdefault((row["class_index"], row["component"]), []).append(row)
    return views_of(said)


def test_findings_come_first_then_the_most_suspicious():
    assert [one.key for one in queue(EVERY, {}, "ada")] == [
        (1, 1), (0, 1), (1, 0), (0, 0), (2, 0),
    ]  # fmt: skip


def test_what_nobody_judged_comes_before_what_others_judged_and_never_ones_own():
    seen = views("ada:1-1:spurious Bob:0-1:unsure")
    ada = [one.key for one in queue(EVERY, seen, "ADA")]
    assert ada == [(1, 0), (0, 0), (2, 0), (0, 1)]
    ada = [one.key for one in queue(EVERY, seen, "ada", Order.SECOND)]
    assert ada == [(0, 1), (1, 0), (0, 0), (2, 0)]


def test_a_third_person_settles_what_two_see_differently():
    seen = views("ada:1-1:spurious bob:1-1:not_spurious ada:0-1:unsure bob:0-1:unsure")
    assert [one.key for one in queue(EVERY, seen, "eve", Order.SPLIT)] == [(1, 1)]
    assert queue(EVERY, seen, "ada", Order.SPLIT) == []
    assert [one.key for one in differing(EVERY, seen)] == [(1, 1)]


def test_kappa_is_cohens():
    """His textbook case: of 50 items, both yes 20, both no 15, 5 and 10 apart: kappa 0.4."""
    pairs = [("spurious", "spurious")] * 20 + [("not_spurious", "not_spurious")] * 15
    pairs += [("spurious", "not_spurious")] * 5 + [("not_spurious", "spurious")] * 10
    text = " ".join(f"Ada:{i}-0:{a} Bob:{i}-0:{b}" for i, (a, b) in enumerate(pairs))
    (found,) = agreement(rows(text))
    assert (found.first, found.second, found.both, found.same) == ("Ada", "Bob", 50, 35)
    assert found.kappa == pytest.approx(0.4)


def test_only_what_both_judged_counts_and_the_latest_view_of_each():
    text = "ada:0-0:spurious ada:0-0:unsure bob:0-0:unsure eve:0-1:unsure ada:1-0:spurious"
    (found,) = agreement(rows(text))
    assert (found.both, found.same, found.kappa) == (1, 1, None)
    assert mean_kappa([found]) is None


def test_the_mean_is_over_all_pairs_of_persons():
    labels = {"a": "snsn", "b": "snsn", "c": "nsns"}
    whole = {"s": "spurious", "n": "not_spurious"}
    text = " ".join(
        f"{who}:{i}-0:{whole[x]}" for who, xs in labels.items() for i, x in enumerate(xs)
    )
    found = agreement(rows(text))
    assert len(found) == len(list(itertools.combinations(labels, 2)))
    assert mean_kappa(found) == pytest.approx((1 - 1 - 1) / 3)
