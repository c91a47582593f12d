"""A run goes on with the images that it began with, and says which came since."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from whylens.errors import UsageError
from whylens.images import open_collection, units
from whylens.images.tensors import to_png
from whylens.jobs.images.listed import as_begun
from whylens.runs import Run

PICTURE = to_png(np.full((4, 4, 3), 90, np.uint8))


def add(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(PICTURE)


@pytest.fixture
def photos(tmp_path):
    add(tmp_path / "photos", "cat/2.png", "cat/4.png", "dog/1.png", "dog/3.png")
    return tmp_path / "photos"


@pytest.fixture
def run(tmp_path):
    return Run.start(f"{tmp_path}/run", "embed", {})


def slices(collection) -> dict[str, list[str]]:
    return {
        name: [record.id for record in collection.part(part).records]
        for name, part in units(len(collection), 2)
    }


def test_images_that_came_since_are_named_and_shift_no_slice(run, photos):
    begun = as_begun(run, "main", open_collection(str(photos)))
    before = slices(begun)
    assert run.record()["collections"]["main"]["images"] == 4
    add(photos, "ant/0.png", "cat/3.png")
    again = as_begun(run, "main", open_collection(str(photos)))
    assert slices(again) == before
    assert again.records.class_names() == {"cat", "dog"}
    (warning,) = run.record()["warnings"]
    assert warning.startswith(f"2 images came to {photos} since this run began")
    assert "ant/0.png and cat/3.png. Name another folder with --out" in warning


def test_the_same_images_are_no_news(run, photos):
    for _ in range(2):
        as_begun(run, "main", open_collection(str(photos)))
    assert run.record()["warnings"] == []
    # Another collection of the run has its own listing.
    add(photos.parent / "second", "a.png")
    as_begun(run, "second", open_collection(str(photos.parent / "second")))
    assert run.record()["warnings"] == []
    assert run.table("listings").units() == ["main", "second"]


def test_images_that_are_gone_are_named(run, photos):
    as_begun(run, "main", open_collection(str(photos)))
    (photos / "cat/4.png").unlink()
    with pytest.raises(
        UsageError, match=r"lacks 1 image that the run in .* began with: cat/4\.png"
    ):
        as_begun(run, "main", open_collection(str(photos)))


def test_another_order_of_the_same_images_is_refused(run, tmp_path):
    file = tmp_path / "images.parquet"
    for ids in (["a", "b", "c"], ["b", "a", "c"]):
        pq.write_table(pa.table({"id": ids, "png": [PICTURE] * 3}), file)
        collection = open_collection(str(file))
        if ids[0] == "a":
            as_begun(run, "main", collection)
    with pytest.raises(UsageError, match="come in another order"):
        as_begun(run, "main", collection)
