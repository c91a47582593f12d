"""The report's sentences."""

from dataclasses import replace

import pytest

from whylens.jobs.report.part import RunData
from whylens.jobs.report.parts.finding import Finding, Verdict, verdict
from whylens.jobs.report.parts.findings import reason, truth_known, truth_label
from whylens.jobs.report.words import facts, headline
from whylens.jobs.words import amount, article, listed, percent, times


def finding(name: str, share: float | None, mean: float | None = None, rank: int = 1) -> Finding:
    return Finding(rank, 0, name, 0, 0.5, share, mean, ("water",), None, True, {})


@pytest.mark.parametrize(
    ("share", "mean", "suspicious", "expected"),
    [
        (None, None, True, Verdict.UNCHECKED),
        (0.5, None, True, Verdict.RELIES),
        (0.49, 0.9, True, Verdict.PULLS),
        (0.02, 0.1, True, Verdict.PULLS),
        (0.6, 0.7, False, Verdict.WEAK),
        (0.0, None, False, Verdict.WEAK),
    ],
)
def test_the_verdict_follows_the_images_without_the_object(
    share: float | None, mean: float | None, suspicious: bool, expected: Verdict
) -> None:
    judged = replace(finding("fish", share, mean), suspicious=suspicious)
    assert verdict(judged) is expected


def test_a_verdict_is_explained_by_its_interval() -> None:
    known = replace(
        finding("fish", 0.5, 0.4), strata_p=0.4, strata_p_low=0.3, strata_p_high=0.5,
        expected_p=0.06, asked_p=0.15, strata=9,
    )  # fmt: skip
    first, last = reason(known)
    assert first == (
        "Averaged over 9 other classes, such images get a fish probability of 40% "
        "(90% interval: 30% to 50%). Images of the same classes in which another feature of fish "
        "is strong get 6% anyway, and from 15% on it would count."
    )
    assert last == "The interval lies above that: hence the verdict."
    none = replace(known, suspicious=False)
    assert "by chance: hence no verdict" in reason(none)[-1]
    assert "reaches below that" in reason(replace(none, strata_p_low=0.1))[-1]
    assert "lies below that" in reason(replace(none, strata_p_low=0.0, strata_p_high=0.1))[-1]
    alone = replace(none, strata_p_low=None, strata_p_high=None, strata=1)
    assert "may just look like a fish" in reason(alone)[0]
    assert reason(finding("fish", 0.5)) == []


def test_a_class_counts_once_and_by_its_strongest_finding() -> None:
    both = (finding("fish", 0.9), finding("fish", 0.2, rank=2), finding("car", 0.2, rank=3))
    data = RunData("", {}, rows={"findings": both}, stages=frozenset({"findings"}))
    assert headline(data) == "1 class relies on something that is not the object"
    data = RunData("", {}, rows={"findings": both[1:]}, stages=frozenset({"findings"}))
    assert headline(data) == "2 classes are swayed by something that is not the object"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "?"), (0.0, "0%"), (0.004, "<1%"), (0.505, "50%"), (0.996, ">99%"), (1.0, "100%")],
)
def test_percent_never_rounds_to_certainty(value: float | None, text: str) -> None:
    assert percent(value) == text


def test_lists_and_counts_read_as_prose() -> None:
    assert listed([]) == ""
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed(list("abcdefg"), most=3) == "a, b and 5 more"
    assert amount(1, "image") == "1 image"
    assert amount(2000, "image") == "2,000 images"
    assert article("apple") == "an apple"


def test_the_truth_is_told_against_the_planted_links() -> None:
    alarms = [
        replace(finding("fish", 0.9), truth="sea"),
        replace(finding("moon", 0.3), truth=""),
        replace(finding("cross", 0.0), truth="", suspicious=False),
    ]
    spec = {"images": "planted:linked", "classifier": "planted:biased"}
    data = RunData("", {"spec": spec}, rows={"findings": tuple(alarms)})
    assert truth_known(data) == (
        "1 of the 8 links that the training images were built with were found, with 1 false alarm"
    )
    fair = RunData("", {"spec": {**spec, "classifier": "planted:balanced"}})
    assert truth_known(fair) == (
        "no link is there to be found, and the search ends with no false alarm"
    )
    assert [truth_label(alarm) for alarm in alarms] == [
        "Planted: sea", "Not planted: a false alarm", "Not planted, not suspected",
    ]  # fmt: skip


def test_ratios_are_rounded_to_what_they_are_worth() -> None:
    assert [times(v) for v in (3.24, 17.2, 640)] == ["3.2 times", "17 times", "more than 100 times"]


def test_what_gpus_calculate_in_is_a_fact_of_the_run() -> None:
    data = RunData("", {"arithmetic": "GPUs: in TF32"}, rows={}, stages=frozenset())
    assert ("Calculated on", "GPUs: in TF32") in facts(data)
    assert "Calculated on" not in dict(facts(RunData("", {}, rows={}, stages=frozenset())))
