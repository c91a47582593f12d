"""The shipped networks are right and wrong in the ways that the planted world promises.

On few images; `whylens planted check` measures the same on thousands.
"""

from typing import Any

import pytest

from whylens.planted.checks.weights import check


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    """What `planted check` finds on a small test set."""
    return check(images=600, attacked=120, samples=40)


@pytest.mark.slow
def test_the_biased_classifier_learned_the_object_and_the_links(record: dict[str, Any]) -> None:
    assert record["biased.linked"] >= 0.93
    assert 0.25 <= record["biased.linked"] - record["biased.unlinked"] <= 0.45


@pytest.mark.slow
def test_the_balanced_classifier_does_not_care_for_links(record: dict[str, Any]) -> None:
    assert min(record["balanced.linked"], record["balanced.unlinked"]) >= 0.9
    assert abs(record["balanced.linked"] - record["balanced.unlinked"]) <= 0.03


@pytest.mark.slow
def test_the_robust_classifier_withstands_what_fells_the_biased_one(record: dict[str, Any]) -> None:
    assert record["robust.attacked"] >= 0.6
    assert record["biased.attacked"] < 0.25


@pytest.mark.slow
def test_the_clip_like_model_names_objects_zero_shot(record: dict[str, Any]) -> None:
    assert record["zero_shot"] >= 0.85


@pytest.mark.slow
@pytest.mark.parametrize("what", ["object", "background", "companion"])
def test_judges_find_on_samples_what_the_captions_name(record: dict[str, Any], what: str) -> None:
    assert record[f"samples.{what}"] >= 0.95


@pytest.mark.slow
def test_the_weights_are_small(record: dict[str, Any]) -> None:
    assert 0 < record["weights_mb"] <= 30
