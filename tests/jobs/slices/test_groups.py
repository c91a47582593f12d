"""Groups of a class and an attribute, and what the report says of repairs, counted by hand."""

import numpy as np
import pyarrow as pa
import pytest

from whylens.images import open_collection
from whylens.jobs.report.parts.groups import load_groups, sentence
from whylens.jobs.slices.groups import _by_group, by_value, groups_of
from whylens.runs import Run
from whylens.runs.lineage import Lineage


def test_groups_are_of_a_class_and_a_value_and_small_ones_are_left_out():
    labels = np.array([0, 0, 0, 1, 1, 1, 1])
    values = np.array(["sea", "sea", "land", "sea", "land", "land", "sea"])
    groups = groups_of(labels, values, 2)
    assert (groups < 0).tolist() == [False, False, True, False, False, False, False]
    assert len(set(groups[groups >= 0])) == 3
    right = np.array([True, False, True, True, False, False, True])
    kept = groups >= 0
    rows = list(_by_group(right[kept], groups[kept], labels[kept], values[kept], ["fish", "star"]))
    assert {(r["class_name"], r["value"]): (r["images"], r["accuracy"]) for r in rows} == {
        ("fish", "sea"): (2, 0.5), ("star", "sea"): (2, 1.0), ("star", "land"): (2, 0.0)
    }  # fmt: skip


def test_a_watermark_draws_images_of_others_to_carton():
    """With it two of four images that are no carton are called so, without it one of three."""
    names = ["cat", "dog", "carton"]
    labels = np.array([0, 0, 1, 1, 2, 0, 0, 1, 2])
    said = np.array([0, 2, 1, 2, 2, 0, 2, 1, 2])
    values = np.array(["yes"] * 5 + ["no"] * 4)
    no, yes = by_value(said, labels, values, names)
    assert yes == {
        "value": "yes", "images": 5, "accuracy": 0.6, "drawn_to": "carton", "drawn": 0.5,
        "drawn_elsewhere": pytest.approx(1 / 3),
    }  # fmt: skip
    # Without it no class is said of others' images more often than with it.
    assert (no["accuracy"], no["drawn_to"], no["drawn"]) == (0.75, None, None)
    (alone,) = by_value(said, labels, np.full(9, "all"), names)
    assert (alone["accuracy"], alone["drawn_to"]) == (pytest.approx(6 / 9), None)


def test_planted_attributes_are_what_the_scenes_show():
    collection = open_collection("planted:unlinked?count=30&seed=4")
    shown = collection.attributes()
    for row, record in enumerate(collection.records):
        assert shown["background"][row] in record.caption
        companion = shown["companion"][row]
        assert companion == "none" or f"with a {companion}" in record.caption


@pytest.fixture
def measured(tmp_path):
    run = Run.start(str(tmp_path / "run"), "groups", {})
    groups, repairs = [], []
    for repair, worst in (("no repair", 0.25), ("SpuFix, refit", 0.75)):
        key = {"repair": repair, "attribute": "place"}
        for value, right in (("land", worst), ("water", 0.9)):
            groups.append(
                {**key, "class_name": "bird", "value": value, "images": 8, "accuracy": right}
            )
        repairs.append(
            {**key, "knows": "something", "images": 16, "accuracy": 0.8, "gap": 0.8 - worst,
             "worst_accuracy": worst, "worst_class": "bird", "worst_value": "land"}
        )  # fmt: skip
    run.table("groups").write("all", pa.Table.from_pylist(groups))
    run.table("repairs").write("all", pa.Table.from_pylist(repairs))
    values = [
        {"repair": repair, "attribute": "place", "value": value, "images": 8, "accuracy": right,
         "drawn_to": "fish" if value == "water" else None,
         "drawn": 0.3 if value == "water" else None,
         "drawn_elsewhere": 0.1 if value == "water" else None}
        for repair in ("no repair", "SpuFix, refit")
        for value, right in (("land", 0.5), ("water", 0.7))
    ]  # fmt: skip
    run.table("values").write("all", pa.Table.from_pylist(values))
    return Lineage(run)


def test_the_report_tells_the_worst_group_before_and_after(measured):
    (row,) = load_groups(measured)
    assert [(g.value, g.accuracies) for g in row.groups] == [
        ("land", (0.25, 0.75)), ("water", (0.9, 0.9))
    ]  # fmt: skip
    assert [(v.value, v.accuracies, v.drawn_to) for v in row.values] == [
        ("land", (0.5, 0.5), None), ("water", (0.7, 0.7), "fish")
    ]  # fmt: skip
    assert sentence([row]) == (
        "By place, the worst group is bird with land: 25% of its images are right, and of the "
        "worst one after SpuFix, refit 75%."
    )
