"""Images in a WebDataset tar."""

import pickle
from pathlib import Path

import pytest
from PIL import Image

from whylens.errors import UsageError
from whylens.images import RejectedImageError, open_collection

from .conftest import encoded, noisy, plain, tar


def test_files_that_share_a_key_are_one_sample(tmp_path: Path) -> None:
    files = [
        ("s/0002.jpg", plain((20, 0, 0))),
        ("s/0002.cls", b"7\n"),
        ("s/0002.txt", "ein Bär \n".encode()),
        ("s/0001.txt", b"before its image"),
        ("s/0001.PNG", plain((10, 0, 0))),
        ("s/0001.json", b"{}"),
        ("top.webp", plain((30, 0, 0))),
        ("top.cls", b"Egyptian cat"),
        ("alone.txt", b"no image of this key"),
    ]
    collection = open_collection(tar(tmp_path / "a.tar", files))
    assert [(r.id, r.class_name, r.caption) for r in collection.records] == [
        ("s/0001", None, "before its image"),
        ("s/0002", "7", "ein Bär"),
        ("top", "Egyptian cat", None),
    ]
    assert collection.records[1].path == f"{tmp_path}/a.tar/s/0002.jpg"
    for record, red in zip(collection.records, (10, 20, 30), strict=True):
        assert (collection.load(record) == (red, 0, 0)).all()
    assert collection.rejected == ()


def test_of_an_image_and_its_mask_the_image_counts(tmp_path: Path) -> None:
    image, mask = plain((1, 1, 1)), plain((2, 2, 2))
    for order in (("x.jpg", "x.seg.png"), ("x.seg.png", "x.jpg")):
        files = [(name, image if name == "x.jpg" else mask) for name in order]
        collection = open_collection(tar(tmp_path / "a.tar", files))
        assert [r.path for r in collection.records] == [f"{tmp_path}/a.tar/x.jpg"]
        assert (collection.load(collection.records[0]) == 1).all()
        (left_out,) = collection.rejected
        assert left_out.id == "x.seg.png"
        assert left_out.reason == "the sample x has the image x.jpg already"


def test_no_image_of_a_sample_with_several_is_lost_without_a_word(tmp_path: Path) -> None:
    names = ("a.1.jpg", "a.2.jpg", "b.jpg", "b.png")
    collection = open_collection(tar(tmp_path / "a.tar", [(n, plain((0, 0, 0))) for n in names]))
    assert [r.path.rsplit("/", 1)[1] for r in collection.records] == ["a.1.jpg", "b.jpg"]
    assert [r.id for r in collection.rejected] == ["a.2.jpg", "b.png"]


def test_what_is_no_image_is_listed_with_a_reason(tmp_path: Path) -> None:
    files = [("a.png", plain((0, 0, 0))), ("b.mp4", b"x"), ("README", b"x"), ("._a.png", b"x")]
    collection = open_collection(tar(tmp_path / "a.tar", files))
    assert [r.id for r in collection.records] == ["a"]
    assert [(r.id, r.reason.split(":")[0]) for r in collection.rejected] == [
        ("b.mp4", "not an image"),
        ("README", "not an image"),
    ]


def test_a_bad_image_is_refused_alone_when_it_is_loaded(tmp_path: Path) -> None:
    files = [("a.png", b""), ("b.png", b"text"), ("c.png", plain((3, 3, 3)))]
    collection = open_collection(tar(tmp_path / "a.tar", files))
    for record, reason in zip(collection.records[:2], ("empty file", "not an image"), strict=True):
        with pytest.raises(RejectedImageError, match=reason):
            collection.load(record)
    assert (collection.load(collection.records[2]) == 3).all()
    (tmp_path / "a.tar").unlink()
    with pytest.raises(RejectedImageError, match="can't be read: No such file"):
        collection.load(collection.records[2])


def test_a_missing_tar_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"no file {tmp_path}/a.tar"):
        open_collection(f"{tmp_path}/a.tar")


def test_what_is_no_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.tar").write_bytes(b"hello" * 300)
    (tmp_path / "empty.tar").write_bytes(b"")
    (tmp_path / "folder.tar").mkdir()
    for name in ("text", "empty", "folder"):
        with pytest.raises(UsageError, match=rf"{name}\.tar can't be read as a tar"):
            open_collection(f"{tmp_path}/{name}.tar")


def test_half_a_tar_is_refused(tmp_path: Path) -> None:
    data = encoded(Image.fromarray(noisy()))
    whole = Path(tar(tmp_path / "a.tar", [("a.png", data), ("b.png", data)])).read_bytes()
    (tmp_path / "half.tar").write_bytes(whole[: 512 + len(data) // 2])
    with pytest.raises(UsageError, match=r"can't be read as a tar.*: unexpected end of data"):
        open_collection(f"{tmp_path}/half.tar")


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_tar_is_refused_when_it_is_listed(mode: str, tmp_path: Path) -> None:
    # Its images could not be read one by one: every one would be rejected later.
    uri = tar(tmp_path / "a.tar", [("a.png", plain((0, 0, 0)))], mode)
    with pytest.raises(UsageError, match="can't be read as a tar without compression"):
        open_collection(uri)


def test_a_tar_without_images_is_refused(tmp_path: Path) -> None:
    for files in ([], [("a.txt", b"x")]):
        with pytest.raises(UsageError, match=f"no images in {tmp_path}/a.tar"):
            open_collection(tar(tmp_path / "a.tar", files))


def test_a_collection_travels_to_workers(tmp_path: Path) -> None:
    collection = open_collection(tar(tmp_path / "a.tar", [("a.png", plain((4, 5, 6)))]))
    there = pickle.loads(pickle.dumps(collection))
    assert (there.load(there.records[0]) == (4, 5, 6)).all()
