"""Collections of spurious images: which class each is for."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from whylens.errors import UsageError
from whylens.images.spurious import open_spurious
from whylens.planted.drawing.world import LINKS, OBJECTS, draw, sample_scene


def jpeg(path: Path) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(path)
    return path.read_bytes()


def test_the_published_layout_says_class_and_component(tmp_path: Path) -> None:
    for folder in ("0_12_94_hummingbird_feeder_1", "3_7_565_freight_car_0", "4_8_94_3"):
        jpeg(tmp_path / "images" / folder / "a.jpg")
    (tmp_path / "images" / "timestamp.txt").write_text("1668000000")
    for uri in (tmp_path / "images", tmp_path):
        found = open_spurious(str(uri))
        assert found.classes == (94, 565, 94)
        assert found.components == (1, 0, 3)
        assert len(found.images) == 3
        assert [r.reason for r in found.images.rejected] == ["not an image: a .txt file"]


def test_other_folders_are_all_named(tmp_path: Path) -> None:
    for folder in ("0_12_94_feeder_1", "bird feeders", "0_12_bird_feeder_1", "0_12_94"):
        jpeg(tmp_path / folder / "a.jpg")
    with pytest.raises(UsageError, match="0_12_94, 0_12_bird_feeder_1, bird feeders are not"):
        open_spurious(str(tmp_path))


@pytest.mark.parametrize("classes", [[94, 5, 94], ["hummingbird", "n01443537", "hummingbird"]])
def test_a_parquet_column_says_the_class(tmp_path: Path, classes: list[int | str]) -> None:
    picture = jpeg(tmp_path / "a.jpg")
    rows = {"id": ["c", "a", "b"], "image": [picture] * 3, "spurious_for": classes}
    pq.write_table(pa.table({**rows, "component": [1, None, 2]}), tmp_path / "with.parquet")
    pq.write_table(pa.table(rows), tmp_path / "without.parquet")
    found = open_spurious(str(tmp_path / "with.parquet"))
    # A data set stays in the order of its rows.
    assert [r.id for r in found.images.records] == ["c", "a", "b"]
    assert found.classes == tuple(classes)
    assert found.components == (1, None, 2)
    assert open_spurious(str(tmp_path / "without.parquet")).components == (None, None, None)


def test_a_missing_column_and_rows_without_a_class_are_refused(tmp_path: Path) -> None:
    file = str(tmp_path / "some.parquet")
    picture = jpeg(tmp_path / "a.jpg")
    pq.write_table(pa.table({"image": [picture] * 2, "about": ["fish", None]}), file)
    with pytest.raises(UsageError, match="no column 'spurious_for'; it has image, about"):
        open_spurious(file)
    with pytest.raises(UsageError, match="1 rows have no about"):
        open_spurious(file, "about")


def test_a_planted_image_shows_one_feature_and_no_object_of_a_link() -> None:
    found = open_spurious("planted:spurious?count=80&seed=5")
    feature = {link.object: link.feature for link in LINKS}
    free = set(OBJECTS) - set(feature)
    for place, (record, name) in enumerate(zip(found.images.records, found.classes, strict=True)):
        scene = sample_scene("spurious", 5, place)
        shown = {scene.background, scene.companion} & set(feature.values())
        assert shown == {feature[str(name)]}
        assert scene.object is None or scene.object in free
        assert record.class_name == scene.object
        assert np.array_equal(found.images.load(record), draw(scene).image)
    assert {found.classes.count(name) for name in feature} == {10}


def test_other_planted_splits_are_refused() -> None:
    with pytest.raises(UsageError, match="planted:spurious"):
        open_spurious("planted:features?count=4")
