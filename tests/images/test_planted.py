"""planted:<split>: images drawn on demand."""

import pickle

import numpy as np
import pytest

from whylens.errors import UsageError
from whylens.images import open_collection
from whylens.planted.drawing.world import OBJECTS, SPLITS, draw, sample_scene


@pytest.mark.parametrize("split", SPLITS)
def test_every_split_opens_with_the_worlds_own_images_labels_and_captions(split: str) -> None:
    collection = open_collection(f"planted:{split}?count=12&seed=3")
    assert [r.id for r in collection.records] == [f"{split}-3-{k:06d}" for k in range(12)]
    for k in (0, 11):
        record, scene = collection.records[k], sample_scene(split, 3, k)  # type: ignore[arg-type]
        assert (record.class_name, record.caption) == (scene.object, scene.caption)
        assert np.array_equal(collection.load(record), draw(scene).image)


def test_images_are_the_same_every_time_and_other_seeds_give_others() -> None:
    first, again = (open_collection("planted:linked?count=3") for _ in range(2))
    other = open_collection("planted:linked?count=3&seed=1")
    assert first.records == again.records
    assert not {r.id for r in first.records} & {r.id for r in other.records}
    images = [c.load(c.records[1]) for c in (first, again, other)]
    assert images[0].shape == (64, 64, 3)
    assert images[0].dtype == np.uint8
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


def test_a_larger_count_adds_images_and_changes_none() -> None:
    few, many = (open_collection(f"planted:balanced?count={n}").records for n in (5, 9))
    assert many[:5] == few


def test_two_thousand_images_are_the_default_and_classes_are_even() -> None:
    records = open_collection("planted:balanced").records
    assert len(records) == 2000
    for name in OBJECTS:
        assert sum(r.class_name == name for r in records) == 2000 // len(OBJECTS)


@pytest.mark.parametrize(
    ("rest", "why"),
    [
        ("test", "no planted split 'test'; there are: linked, unlinked"),
        ("linked?counts=3", "unknown option 'counts'; count and seed go"),
        ("linked?count=many", "count and seed are whole numbers"),
        ("linked?count=1.5", "count and seed are whole numbers"),
        ("linked?count=0", "count is at least 1"),
        ("linked?seed=-1", "seed at least 0"),
    ],
)
def test_a_name_that_makes_no_sense_is_explained(rest: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        open_collection(f"planted:{rest}")


def test_a_collection_travels_to_workers() -> None:
    collection = open_collection("planted:clear?count=2")
    there = pickle.loads(pickle.dumps(collection))
    record = collection.records[1]
    assert np.array_equal(there.load(record), collection.load(record))
