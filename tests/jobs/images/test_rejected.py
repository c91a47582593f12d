"""Images that can't be read any more: left out, with their reasons, whichever job looks again."""

import numpy as np
import pytest
import torch
from PIL import Image

from whylens.classifiers import load_classifier
from whylens.images import open_collection
from whylens.images.tensors import to_tensor
from whylens.jobs.images.rejected import GONE, ReadableImages, write_unreadable
from whylens.jobs.report.parts.rejected import load_rejected
from whylens.jobs.slices.shown import exemplars, seen_by
from whylens.runs import Run
from whylens.runs.lineage import Lineage

NAMES = [f"{letter}.png" for letter in "abcd"]


@pytest.fixture
def images(tmp_path):
    """Four pictures, of which the second broke after they were listed."""
    rng = np.random.default_rng(0)
    for name in NAMES:
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / name)
    collection = open_collection(str(tmp_path))
    (tmp_path / NAMES[1]).write_bytes(b"no picture")
    return ReadableImages(collection, "second")


def test_what_cannot_be_read_is_noted_once_with_its_reason(images, tmp_path):
    asked = [NAMES[2], NAMES[1], "gone.png", NAMES[0]]
    assert list(images.load(asked)) == [NAMES[2], NAMES[0]]
    images.load(asked)
    run = Run.start(str(tmp_path / "run"), "confirm", {})
    write_unreadable(run, "unit", images, ReadableImages(images.collection, "main"))
    found = {row.file: (row.reason, row.collection) for row in load_rejected(Lineage(run))}
    assert found == {
        str(tmp_path / NAMES[1]): ("not an image that Pillow can read", "second"),
        "gone.png": (GONE, "second"),
    }
    assert images.rejected() == []


def test_a_mask_of_another_image_is_noted_and_left_out(images, monkeypatch):
    masks = {NAMES[0]: np.ones((32, 32), bool), NAMES[2]: np.ones((64, 32), bool)}
    monkeypatch.setattr(images.collection, "object_mask", lambda record: masks.get(record.id))
    found = images.masks(images.load([NAMES[0], NAMES[2], NAMES[3]]))
    assert {name: mask.shape for name, mask in found.items()} == {NAMES[0]: (32, 32)}
    (row,) = images.rejected()
    assert (row["id"], row["reason"]) == (NAMES[2], "its mask is 32 x 64, the image 64 x 64")


def test_a_judge_says_nothing_of_what_it_cannot_be_shown(images):
    judge = load_classifier("planted:judge_object")
    said = seen_by(judge, images, NAMES, judge.probabilities)
    assert list(said) == [NAMES[0], *NAMES[2:]]
    records = images.collection.records.with_ids(NAMES)
    alone = to_tensor(judge.eval_transform(images.collection.load(records[NAMES[3]])))[None]
    with torch.inference_mode():
        expected = judge.probabilities(alone)[0].numpy()
    assert said[NAMES[3]] == pytest.approx(expected, abs=1e-5)
    assert seen_by(judge, images, NAMES[1:2], judge.probabilities) == {}


def test_exemplars_are_those_that_can_be_read(images):
    rows = exemplars(images, NAMES[:3], [0.1, 0.2, 0.3], ["fish", None, "star"])
    assert [(row["image_id"], row["p"], row["label"]) for row in rows] == [
        (NAMES[0], 0.1, "fish"), (NAMES[2], 0.3, "star")
    ]  # fmt: skip
