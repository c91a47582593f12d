"""Masks from a folder or of the collection: cut as the images are, missing ones with a reason."""

import numpy as np
import pytest
import torch
from PIL import Image

from whylens.errors import UsageError
from whylens.images import open_collection
from whylens.jobs.guided.masks import check_folder, given_masks


@pytest.fixture
def collection(tmp_path):
    folder = tmp_path / "images" / "cat"
    folder.mkdir(parents=True)
    for name in ("a", "b", "c"):
        Image.new("RGB", (40, 20), "red").save(folder / f"{name}.jpg")
    return open_collection(str(tmp_path / "images"))


def test_masks_of_a_folder_are_cut_and_scaled_as_their_images(collection, tmp_path):
    masks = tmp_path / "masks" / "cat"
    masks.mkdir(parents=True)
    left = np.zeros((20, 40), np.uint8)
    left[:, :20] = 255
    Image.fromarray(left).save(masks / "a.png")
    Image.fromarray(left[:, :30]).save(masks / "b.png")
    records = list(collection.records)
    pictures = [collection.load(record) for record in records]
    found, lacking = given_masks(collection, records, pictures, 10, str(tmp_path / "masks"))
    assert found.shape == (3, 1, 10, 10)
    # The centre square is cut: its left half is inside.
    assert found[0, 0, :, :4].min() > 0.9
    assert found[0, 0, :, 6:].max() < 0.1
    assert lacking[0] is None
    assert "30 x 20 px, the image 40 x 20" in lacking[1]
    assert "there is no mask" in lacking[2]
    assert torch.equal(found[1:], torch.zeros(2, 1, 10, 10))


def test_a_planted_drawing_has_its_own_mask_and_a_photo_has_none(collection):
    drawn = open_collection("planted:clear?count=1")
    record = drawn.records[0]
    found, lacking = given_masks(drawn, [record], [drawn.load(record)], 64, None)
    assert lacking == [None]
    np.testing.assert_array_equal(found[0, 0].numpy() > 0.5, drawn.object_mask(record))
    photo = collection.records[0]
    _, lacking = given_masks(collection, [photo], [collection.load(photo)], 8, None)
    assert lacking == ["the collection has no mask of it"]


def test_a_folder_that_nothing_reads_or_that_is_not_there_is_refused(tmp_path):
    check_folder(None, "attention")
    with pytest.raises(UsageError, match=r"guidance\.editing\.mask is 'none'"):
        check_folder(str(tmp_path), "none")
    with pytest.raises(UsageError, match="is not there"):
        check_folder(str(tmp_path / "masks"), "given")
