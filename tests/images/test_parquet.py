"""Images in the columns of Parquet files."""

import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow.dataset import dataset

from whylens.errors import UsageError
from whylens.images import RejectedImageError, open_collection
from whylens.images.parquet_rows import ParquetRows

from .conftest import plain

COLOURS = [(10 * k, 0, 255 - 10 * k) for k in range(5)]
IMAGES = [plain(c) for c in COLOURS]


def write(path: Path, columns: Any, **options: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    pq.write_table(table, path, **options)
    return str(path)


@pytest.mark.parametrize("column", ["image", "bytes", "jpg", "png", "webp"])
def test_rows_are_numbered_and_each_gives_its_own_image(column: str, tmp_path: Path) -> None:
    uri = write(tmp_path / "a.parquet", {"other": range(5), column: IMAGES}, row_group_size=2)
    collection = open_collection(uri)
    assert [r.id for r in collection.records] == [f"{k:09d}" for k in range(5)]
    assert {(r.class_name, r.caption) for r in collection.records} == {(None, None)}
    for record, colour in zip(collection.records, COLOURS, strict=True):
        assert (collection.load(record) == colour).all()


def test_images_are_read_as_hugging_face_writes_them(tmp_path: Path) -> None:
    column = [{"bytes": b, "path": f"{k}.png"} for k, b in enumerate(IMAGES)]
    uri = write(tmp_path / "a.parquet", {"image": column, "label": [3, 1, 4, 1, 5]})
    collection = open_collection(uri)
    assert [r.class_name for r in collection.records] == ["3", "1", "4", "1", "5"]
    assert (collection.load(collection.records[2]) == COLOURS[2]).all()


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_large_binary_will_do_too(kind: pa.DataType, tmp_path: Path) -> None:
    uri = write(tmp_path / "a.parquet", {"image": pa.array(IMAGES, kind)})
    collection = open_collection(uri)
    assert (collection.load(collection.records[4]) == COLOURS[4]).all()


def test_ids_labels_and_captions_come_from_their_columns_in_row_order(tmp_path: Path) -> None:
    columns = {
        "image": IMAGES[:3],
        "id": ["c", "a", "b"],
        "class_name": ["cat", None, "dog"],
        "caption": ["a cat", "nothing", None],
    }
    collection = open_collection(write(tmp_path / "a.parquet", columns))
    assert [(r.id, r.class_name, r.caption) for r in collection.records] == [
        ("c", "cat", "a cat"),
        ("a", None, "nothing"),
        ("b", "dog", None),
    ]
    shown = [collection.load(r)[0, 0].tolist() for r in collection.records]
    assert shown == [list(colour) for colour in COLOURS[:3]]


@pytest.mark.parametrize(("id_", "label", "text"), [("key", "label", "text"),
                                                    ("__key__", "cls", "caption"),
                                                    ("id", "class", "text")])  # fmt: skip
def test_columns_go_by_their_usual_names(id_: str, label: str, text: str, tmp_path: Path) -> None:
    columns = {"png": IMAGES[:1], id_: ["x7"], label: ["cat"], text: ["a cat"]}
    (record,) = open_collection(write(tmp_path / "a.parquet", columns)).records
    assert (record.id, record.class_name, record.caption) == ("x7", "cat", "a cat")


def test_labels_written_as_a_dictionary_are_read_as_words(tmp_path: Path) -> None:
    labels = pa.array(["cat", "dog", "cat"]).dictionary_encode()
    uri = write(tmp_path / "a.parquet", {"image": IMAGES[:3], "label": labels})
    assert [r.class_name for r in open_collection(uri).records] == ["cat", "dog", "cat"]


def test_a_folder_of_files_is_one_collection_with_ids_that_stay(tmp_path: Path) -> None:
    write(tmp_path / "p" / "b.parquet", {"image": IMAGES[3:]})
    write(tmp_path / "p" / "a.parquet", {"image": IMAGES[:3]})
    collection = open_collection(f"parquet:{tmp_path}/p")
    again = open_collection(f"parquet:{tmp_path}/p")
    assert collection.records == again.records
    shown = [tuple(collection.load(r)[0, 0].tolist()) for r in collection.records]
    assert shown == COLOURS


def test_a_single_row_without_an_image_is_refused_alone(tmp_path: Path) -> None:
    structs = [{"bytes": None, "path": "x"}, {"bytes": IMAGES[1], "path": None}, None]
    hf = open_collection(write(tmp_path / "hf.parquet", {"image": structs}))
    with pytest.raises(RejectedImageError, match="no image in this row"):
        hf.load(hf.records[0])
    with pytest.raises(RejectedImageError, match="no image in this row"):
        hf.load(hf.records[2])
    assert (hf.load(hf.records[1]) == COLOURS[1]).all()
    flat = open_collection(write(tmp_path / "b.parquet", {"image": [None, b"", b"x", IMAGES[0]]}))
    for record, reason in zip(
        flat.records, ("no image", "empty file", "not an image"), strict=False
    ):
        with pytest.raises(RejectedImageError, match=reason):
            flat.load(record)
    assert (flat.load(flat.records[3]) == COLOURS[0]).all()


def test_a_missing_file_or_folder_is_named(tmp_path: Path) -> None:
    for uri in (f"{tmp_path}/a.parquet", f"parquet:{tmp_path}/a"):
        with pytest.raises(UsageError, match=f"no file or folder {tmp_path}/a"):
            open_collection(uri)


def test_a_broken_file_is_refused_wherever_it_is_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 this is no Parquet")
    with pytest.raises(UsageError, match=r"bad\.parquet can't be read as Parquet"):
        open_collection(f"{tmp_path}/bad.parquet")
    write(tmp_path / "p" / "a.parquet", {"image": IMAGES})
    (tmp_path / "p" / "z.parquet").write_bytes(b"junk")
    with pytest.raises(UsageError, match=r"can't be read as Parquet: .*z\.parquet"):
        open_collection(f"parquet:{tmp_path}/p")


def test_without_an_image_column_the_columns_are_listed(tmp_path: Path) -> None:
    uri = write(tmp_path / "a.parquet", {"picture": IMAGES, "label": [1] * 5})
    with pytest.raises(
        UsageError, match=r"no image column \(image, bytes, .*it has picture, label"
    ):
        open_collection(uri)


@pytest.mark.parametrize("values", [["a.png"], [3], [[1, 2]], [{"path": "a.png"}]])
def test_an_image_column_that_holds_no_bytes_is_refused(values: list[Any], tmp_path: Path) -> None:
    uri = write(tmp_path / "a.parquet", {"image": values})
    with pytest.raises(UsageError, match=r"the column image is of the type .*: expected encoded"):
        open_collection(uri)


def test_no_rows_and_no_files_are_no_images(tmp_path: Path) -> None:
    empty = write(tmp_path / "a.parquet", {"image": pa.array([], pa.binary())})
    (tmp_path / "p").mkdir()
    for uri in (empty, f"parquet:{tmp_path}/p"):
        with pytest.raises(UsageError, match=r"no images in .*no rows"):
            open_collection(uri)


def test_ids_that_occur_twice_are_refused(tmp_path: Path) -> None:
    uri = write(tmp_path / "a.parquet", {"image": IMAGES, "id": ["a", "b", "a", "c", "b"]})
    with pytest.raises(UsageError, match="2 ids occur more than once"):
        open_collection(uri)


def test_a_collection_travels_to_workers(tmp_path: Path) -> None:
    collection = open_collection(write(tmp_path / "a.parquet", {"image": IMAGES}))
    there = pickle.loads(pickle.dumps(collection))
    assert np.array_equal(there.load(there.records[3]), np.full((4, 6, 3), COLOURS[3]))


def test_rows_in_order_read_each_row_group_once_and_no_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "p" / "a.parquet", {"image": IMAGES * 60}, row_group_size=200)
    write(tmp_path / "p" / "b.parquet", {"image": IMAGES[::-1]})
    opened, batches = [], []
    real = pq.ParquetFile.iter_batches

    def counted(self: Any, size: int, **options: Any) -> Any:
        opened.append(options["row_groups"])
        for batch in real(self, size, **options):
            batches.append(len(batch))
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    collection = open_collection(f"parquet:{tmp_path}/p")
    images = [collection.load(record) for record in collection.records]
    shown = [tuple(image[0, 0].tolist()) for image in images]
    assert shown == COLOURS * 60 + COLOURS[::-1]
    assert opened == [[0], [1], [0]]
    assert max(batches) <= 64


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(0, 299), min_size=1, max_size=12))
def test_rows_in_any_order_are_the_right_ones(rows: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        table = pa.table({"image": [str(k).encode() for k in range(300)]})
        pq.write_table(table, f"{folder}/a.parquet", row_group_size=130)
        values = ParquetRows(dataset(folder, format="parquet"), "image")
        assert [values[row] for row in rows] == [str(row).encode() for row in rows]
