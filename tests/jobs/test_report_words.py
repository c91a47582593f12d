"""The report's sentences."""

import pytest

from whylens.jobs.report_data import Finding, RunData
from whylens.jobs.report_words import Verdict, amount, article, headline, listed, percent, verdict


def finding(name: str, share: float | None, mean: float | None = None, rank: int = 1) -> Finding:
    return Finding(rank, 0, name, 0, 0.5, share, mean, ("water",), None, {})


@pytest.mark.parametrize(
    ("share", "mean", "expected"),
    [
        (None, None, Verdict.UNCHECKED),
        (0.5, None, Verdict.RELIES),
        (0.49, 0.9, Verdict.PULLS),
        (0.02, 0.1, Verdict.PULLS),
        (0.02, 0.09, Verdict.WEAK),
        (0.0, None, Verdict.WEAK),
    ],
)
def test_the_verdict_follows_the_images_without_the_object(
    share: float | None, mean: float | None, expected: Verdict
) -> None:
    assert verdict(finding("fish", share, mean)) is expected


def test_a_class_counts_once_and_by_its_strongest_finding() -> None:
    both = (finding("fish", 0.9), finding("fish", 0.2, rank=2), finding("car", 0.2, rank=3))
    data = RunData("", {}, findings=both, stages=frozenset({"findings"}))
    assert headline(data) == "1 class relies on something that is not the object"
    data = RunData("", {}, findings=both[1:], stages=frozenset({"findings"}))
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
