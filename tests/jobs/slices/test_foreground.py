"""What the foreground job writes of single images, and what the report makes of it by class."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from whylens.classifiers import load_classifier
from whylens.images import RejectedImageError, open_collection
from whylens.images.collection import require_fit
from whylens.images.tensors import to_tensor
from whylens.jobs.report.parts.foreground import ALL, load_foreground
from whylens.jobs.report.parts.rejected import load_rejected
from whylens.jobs.slices.foreground import ForegroundSettings, Looker
from whylens.jobs.stage import Batch
from whylens.runs import Run
from whylens.runs.lineage import Lineage


def test_noise_too_faint_to_see_leaves_what_is_said(tmp_path):
    collection, classifier = open_collection("planted:unlinked?count=6&seed=3"), "planted:biased"
    run = Run.start(str(tmp_path / "run"), "foreground", {})
    settings = ForegroundSettings(sigma=1e-6, trials=2)
    tasks = tuple(
        (record.id, load_classifier(classifier).class_index(record.class_name))
        for record in collection.records
    )
    assert Looker(run, classifier, collection, settings, "cpu")(Batch("all", tasks)) == 6
    rows = run.table("foreground").read().to_pylist()
    images = torch.stack([to_tensor(collection.load(record)) for record in collection.records])
    said = load_classifier(classifier).logits(images).argmax(1).tolist()
    right = [float(called == label) for called, (_, label) in zip(said, tasks, strict=True)]
    for name in ("plain", "noisy_object", "noisy_rest"):
        assert [row[name] for row in rows] == right
    assert [row["image_id"] for row in rows] == [name for name, _ in tasks]


def test_an_image_whose_object_nobody_marked_is_left_out(tmp_path):
    collection = open_collection("planted:features?count=12&seed=3")
    run = Run.start(str(tmp_path / "run"), "foreground", {})
    tasks = tuple((record.id, 0) for record in collection.records)
    marked = [r.id for r in collection.records if collection.object_mask(r) is not None]
    assert 0 < len(marked) < 12
    looker = Looker(run, "planted:biased", collection, ForegroundSettings(trials=1), "cpu")
    assert looker(Batch("all", tasks)) == len(marked)
    rows = run.table("foreground").read().to_pylist()
    assert [row["image_id"] for row in rows] == marked
    left_out = run.table("rejected").read()
    assert set(left_out["id"].to_pylist()) == {r.id for r in collection.records} - set(marked)
    assert set(left_out["reason"].to_pylist()) == {"nobody says where its object is"}


def test_every_class_counts_as_much(tmp_path):
    run = Run.start(str(tmp_path / "run"), "foreground", {})
    of = [("fish", 1.0, 0.5, 1.0)] * 3 + [("star", 0.0, 0.5, 0.0)]
    rows = [
        {"image_id": str(n), "class_name": name, "class_index": 0, "plain": plain,
         "noisy_object": on, "noisy_rest": off}
        for n, (name, plain, on, off) in enumerate(of)
    ]  # fmt: skip
    run.table("foreground").write("all", pa.Table.from_pylist(rows))
    every, star, fish = load_foreground(Lineage(run))
    assert (every.class_name, every.images, every.accuracy) == (ALL, 4, 0.5)
    assert (every.noise_on_object, every.noise_on_rest) == (0.5, 0.5)
    assert every.relative_foreground_sensitivity == 0
    # (0 - 0.5) / (2 * 0.25), and (1 - 0.5) / (2 * 0.25).
    assert (star.class_name, star.relative_foreground_sensitivity) == ("star", pytest.approx(-1))
    assert (fish.class_name, fish.relative_foreground_sensitivity) == ("fish", pytest.approx(1))


def test_images_that_cannot_be_used_are_kept_with_their_reasons(tmp_path):
    """A broken picture, and masks that are gone, of another shape, and that mark nothing."""
    images, masks = tmp_path / "images/val/n01234567", tmp_path / "masks/val"
    for folder in (images, masks):
        folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    there = np.zeros((20, 30), np.uint8)
    there[5:15, 10:20] = 255
    shown = {
        "broken": there, "empty": there * 0, "gone": there, "good": there, "narrow": there[:, 5:25]
    }  # fmt: skip
    for name, mask in shown.items():
        Image.fromarray(pixels).save(images / f"{name}.png")
        Image.fromarray(mask).save(masks / f"n01234567_{name}.png")
    collection = open_collection(f"hardimagenet:{tmp_path / 'images'}?masks={tmp_path / 'masks'}")
    (images / "broken.png").write_bytes(b"no picture")
    (masks / "n01234567_gone.png").unlink()
    run = Run.start(str(tmp_path / "run"), "foreground", {})
    looker = Looker(run, "planted:biased", collection, ForegroundSettings(trials=1), "cpu")
    tasks = tuple((record.id, 0) for record in collection.records)
    assert looker(Batch("all", tasks)) == 1
    (seen,) = run.table("foreground").read()["image_id"].to_pylist()
    assert seen.endswith("good.png")
    reasons = {Path(one.file).stem: one.reason for one in load_rejected(Lineage(run))}
    assert reasons == {
        "broken": "not an image that Pillow can read",
        "empty": "its mask marks no object",
        "gone": "its mask can't be read: No such file or directory",
        "narrow": "its mask is 20 x 20, the image 60 x 40",
    }


@pytest.mark.parametrize("size", [(60, 40), (30, 20), (61, 41), (299, 199), (45, 30)])
def test_a_mask_of_the_images_shape_fits_at_any_size(size):
    width, height = size
    image = np.zeros((40, 60, 3), np.uint8)
    mask = np.ones((height, width), bool)
    require_fit(mask, image)
    with pytest.raises(RejectedImageError, match="its mask is"):
        require_fit(mask.T, image)
