"""A folder of images, flat or one subfolder a class."""

import pickle
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from whylens.errors import UsageError
from whylens.images import Rejected, RejectedImageError, open_collection

from .conftest import encoded, noisy, plain


def write(folder: Path, files: dict[str, bytes]) -> str:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return str(folder)


def test_a_flat_folder_is_images_without_classes_in_order(tmp_path: Path) -> None:
    colours = {"b.png": (1, 2, 3), "a10.png": (4, 5, 6), "a2.JPG": (7, 8, 9), "ä c.png": (9, 9, 9)}
    collection = open_collection(write(tmp_path, {n: plain(c) for n, c in colours.items()}))
    assert [r.id for r in collection.records] == ["a10.png", "a2.JPG", "b.png", "ä c.png"]
    assert {r.class_name for r in collection.records} == {None}
    assert len(collection) == 4
    for record in collection.records:
        assert Path(record.path) == tmp_path / record.id
        assert (collection.load(record) == colours[record.id]).all()


def test_a_subfolder_is_a_class(tmp_path: Path) -> None:
    files = ("dog/2.png", "cat/deeper/1.png", "cat/1.png", "loose.png", "Cat-2/1.png")
    collection = open_collection(write(tmp_path, dict.fromkeys(files, plain((0, 0, 0)))))
    assert [(r.id, r.class_name) for r in collection.records] == [
        ("Cat-2/1.png", "Cat-2"),
        ("cat/1.png", "cat"),
        ("cat/deeper/1.png", "cat"),
        ("dog/2.png", "dog"),
        ("loose.png", None),
    ]


def test_ids_do_not_depend_on_where_the_folder_is_or_how_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = dict.fromkeys(("x/1.png", "y/2.png"), plain((0, 0, 0)))
    here, there = write(tmp_path / "here", files), write(tmp_path / "some" / "where", files)
    monkeypatch.chdir(tmp_path)
    for uri in (here, there, f"{here}/", f"file://{here}", "here", "./here/"):
        collection = open_collection(uri)
        assert [r.id for r in collection.records] == ["x/1.png", "y/2.png"]
        assert collection.uri == uri
        assert collection.load(collection.records[1]).shape == (4, 6, 3)


def test_what_is_no_image_is_listed_with_a_reason(tmp_path: Path) -> None:
    files = {
        "a.png": plain((0, 0, 0)), "notes.txt": b"x", "LICENSE": b"x", "empty.jpg": b"",
        ".hidden.png": b"x", ".cache/b.png": b"x", "c/Thumbs.db": b"x",
    }  # fmt: skip
    collection = open_collection(write(tmp_path, files))
    assert [r.id for r in collection.records] == ["a.png"]
    root = str(tmp_path)
    assert set(collection.rejected) == {
        Rejected("notes.txt", f"{root}/notes.txt", "not an image: a .txt file"),
        Rejected("LICENSE", f"{root}/LICENSE", "not an image: a file without a suffix"),
        Rejected("c/Thumbs.db", f"{root}/c/Thumbs.db", "not an image: a .db file"),
        Rejected("empty.jpg", f"{root}/empty.jpg", "empty file"),
    }


def test_a_bad_image_is_refused_alone_when_it_is_loaded(tmp_path: Path) -> None:
    torn = encoded(Image.fromarray(noisy()))[:3000]
    files = {"1.png": plain((5, 5, 5)), "2.png": b"no image", "3.png": torn}
    collection = open_collection(write(tmp_path, files))
    good, text, half = collection.records
    assert (collection.load(good) == 5).all()
    with pytest.raises(RejectedImageError, match="not an image"):
        collection.load(text)
    with pytest.raises(RejectedImageError, match=r"^truncated: "):
        collection.load(half)


def test_an_image_that_vanishes_after_listing_is_refused(tmp_path: Path) -> None:
    collection = open_collection(write(tmp_path, {"1.png": plain((5, 5, 5))}))
    (tmp_path / "1.png").unlink()
    with pytest.raises(RejectedImageError, match="can't be read: No such file"):
        collection.load(collection.records[0])


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for name in ("nowhere", "file"):
        with pytest.raises(UsageError, match=f"no folder {tmp_path}/{name}"):
            open_collection(f"{tmp_path}/{name}")


def test_a_folder_without_images_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"no images in {tmp_path}: expected .*jpg.*subfolder"):
        open_collection(str(tmp_path))
    write(tmp_path, {"a.txt": b"x", "b.pdf": b"x", "empty.png": b""})
    with pytest.raises(UsageError, match=r"no images in .* \(3 other files\)"):
        open_collection(str(tmp_path))


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(UsageError, match=r"nosuch://x can't be opened: .*nosuch"):
        open_collection("nosuch://x")


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    system = fsspec.filesystem("memory")
    yield system
    system.rm("/pictures", recursive=True)


def test_images_are_read_from_any_fsspec_filesystem(memory: fsspec.AbstractFileSystem) -> None:
    memory.pipe_file("/pictures/cat/1.png", plain((1, 1, 1)))
    memory.pipe_file("/pictures/dog/2.png", plain((2, 2, 2)))
    memory.pipe_file("/pictures/dog/empty.png", b"")
    collection = open_collection("memory://pictures")
    assert [(r.id, r.class_name) for r in collection.records] == [
        ("cat/1.png", "cat"),
        ("dog/2.png", "dog"),
    ]
    assert [r.reason for r in collection.rejected] == ["empty file"]
    assert (collection.load(collection.records[1]) == 2).all()


def test_a_collection_travels_to_workers(tmp_path: Path) -> None:
    collection = open_collection(write(tmp_path, {"a/1.png": plain((5, 6, 7))}))
    there = pickle.loads(pickle.dumps(collection))
    assert there.records == collection.records
    assert np.array_equal(there.load(there.records[0]), np.full((4, 6, 3), (5, 6, 7)))
