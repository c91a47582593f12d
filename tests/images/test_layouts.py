"""Data sets with attributes, laid out as their authors do, of one pixel a picture."""

import pickle

import numpy as np
import pytest
from PIL import Image

from whylens.errors import UsageError
from whylens.images import RejectedImageError, open_collection

from .conftest import encoded, plain

FILES = {
    "waterbirds": {
        "metadata.csv": "img_id,img_filename,y,split,place,place_filename\n"
        "1,001.Albatross/a.jpg,1,0,0,x\n2,002.Crow/b.jpg,0,2,1,x\n3,002.Crow/a.jpg,0,2,0,x\n",
        "002.Crow/a.jpg": None,
        "002.Crow/b.jpg": None,
        "001.Albatross/a.jpg": None,
    },
    "celeba": {
        "list_attr_celeba.csv": "image_id,Blond_Hair,Male,Young\n1.jpg,1,-1,1\n2.jpg,-1,1,1\n",
        "list_eval_partition.csv": "image_id,partition\n1.jpg,2\n2.jpg,0\n",
        "img_align_celeba/1.jpg": None,
        "img_align_celeba/2.jpg": None,
    },
    "spawrious": {"0/desert/bulldog/1.png": None, "1/snow/corgi/2.png": None, "x.png": None},
    "metashift": {"train/cat/cat(sofa)/1.jpg": None, "test/dog/dog(shelf)/2.jpg": None},
    "imagenet9": {
        "mixed_rand/val/00_dog/1.JPEG": None, "original/val/01_bird/2.JPEG": None
    },
    "counteranimal": {
        "LAION-final/144 pelican/common-water/1.jpg": None,
        "LAION-final/144 pelican/counter-sky/2.jpg": None,
        "LAION-final/imagenet.txt": "144 pelican",
    },
    "metadata": {
        "metadata.csv": "file_name,label,split,light\n"
        "a/1.png,cat,train,day\n2.png,dog,test,night\n",
        "others.csv": "of,kind,light,place\n2.png,dog,night,yard\n",
        "a/1.png": None,
        "2.png": None,
    },
}  # fmt: skip
FOUND = {
    "waterbirds?split=test": [
        ("002.Crow/a.jpg", "landbird", "land"), ("002.Crow/b.jpg", "landbird", "water")
    ],
    "celeba": [
        ("img_align_celeba/1.jpg", "blond hair", "not male"),
        ("img_align_celeba/2.jpg", "not blond hair", "male"),
    ],
    "celeba?split=test&target=Male&attribute=Young": [
        ("img_align_celeba/1.jpg", "not male", "young")
    ],
    "spawrious": [
        ("0/desert/bulldog/1.png", "bulldog", "desert"), ("1/snow/corgi/2.png", "corgi", "snow")
    ],
    "metashift?split=train": [("train/cat/cat(sofa)/1.jpg", "cat", "sofa")],
    "imagenet9": [
        ("mixed_rand/val/00_dog/1.JPEG", "dog", "mixed_rand"),
        ("original/val/01_bird/2.JPEG", "bird", "original"),
    ],
    "counteranimal": [
        ("LAION-final/144 pelican/common-water/1.jpg", "144", "common"),
        ("LAION-final/144 pelican/counter-sky/2.jpg", "144", "counter"),
    ],
    "metadata": [("2.png", "dog", "night"), ("a/1.png", "cat", "day")],
    "metadata?split=train": [("a/1.png", "cat", "day")],
    "metadata?table=others.csv&image=of&class=kind&attributes=place": [("2.png", "dog", "yard")],
}  # fmt: skip


@pytest.fixture
def laid_out(tmp_path):
    for layout, files in FILES.items():
        for name, content in files.items():
            path = tmp_path / layout / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(plain((1, 2, 3)) if content is None else content.encode())
    return tmp_path


@pytest.mark.parametrize("asked", FOUND)
def test_a_data_set_is_read_as_it_is_laid_out(laid_out, asked):
    layout, _, query = asked.partition("?")
    uri = f"{layout}:{laid_out / layout}" + (f"?{query}" if query else "")
    collection = pickle.loads(pickle.dumps(open_collection(uri)))
    (values,) = collection.attributes().values()
    found = [(r.id, r.class_name, v) for r, v in zip(collection.records, values, strict=True)]
    assert found == FOUND[asked]
    assert (collection.load(collection.records[0]) == (1, 2, 3)).all()
    last = collection.part(slice(len(found) - 1, len(found)))
    assert next(iter(last.attributes().values())) == [found[-1][2]]


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        ("waterbirds", "there is no metadata.csv"),
        ("celeba", "there is no list_attr_celeba.csv"),
        ("spawrious", "no images laid out as spawrious are: 0/LOCATION"),
        ("metashift", "no images laid out as metashift are"),
        ("imagenet9", "no images laid out as imagenet9 are"),
        ("counteranimal", "no images laid out as counteranimal are: INDEX CLASS/common-PLACE"),
        ("hardimagenet", "name the data set's folder of masks"),
        ("metadata", "there is no metadata.csv"),
    ],
)
def test_a_wrong_layout_is_told_in_a_sentence(tmp_path, layout, said):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(plain((0, 0, 0)))
    with pytest.raises(UsageError, match=said):
        open_collection(f"{layout}:{tmp_path}")


def test_hard_imagenet_knows_where_its_objects_are(tmp_path):
    """Its masks lie in a folder of their own, under the class's and the image's name in one."""
    image, mask = tmp_path / "images/val/n01234567/7_val.JPEG", tmp_path / "masks/val"
    for folder in (image.parent, mask):
        folder.mkdir(parents=True)
    image.write_bytes(plain((9, 9, 9), (3, 2)))
    there = np.array([[0, 3, 255], [0, 0, 0]], np.uint8)
    (mask / "n01234567_7_val.JPEG").write_bytes(encoded(Image.fromarray(there)))
    uri = f"hardimagenet:{tmp_path / 'images'}?masks={tmp_path / 'masks'}"
    collection = pickle.loads(pickle.dumps(open_collection(f"{uri}&split=val")))
    (record,) = collection.records
    assert (record.id, record.class_name) == ("val/n01234567/7_val.JPEG", "n01234567")
    assert collection.object_mask(record).tolist() == (there > 0).tolist()
    assert (collection.load(record) == 9).all()
    (mask / "n01234567_7_val.JPEG").unlink()
    with pytest.raises(RejectedImageError, match="its mask can't be read"):
        collection.object_mask(record)
    with pytest.raises(UsageError, match="no images laid out as hardimagenet are"):
        open_collection(uri)


def test_wrong_columns_options_and_splits_are_told(laid_out):
    with pytest.raises(UsageError, match="no split 'val'; there are: test, train"):
        open_collection(f"waterbirds:{laid_out / 'waterbirds'}?split=val")
    with pytest.raises(UsageError, match="unknown option 'target'"):
        open_collection(f"waterbirds:{laid_out / 'waterbirds'}?target=y")
    with pytest.raises(UsageError, match="has not the columns image_id, Hat, Male"):
        open_collection(f"celeba:{laid_out / 'celeba'}?target=Hat")
    with pytest.raises(UsageError, match="no folder"):
        open_collection(f"spawrious:{laid_out / 'nowhere'}")


def test_rows_that_cannot_be_used_are_rejected_with_the_reason(laid_out):
    """One bad row ends nothing: the others are the collection."""
    folder = laid_out / "waterbirds"
    lines = (folder / "metadata.csv").read_text().splitlines()
    bad = ["4,002.Crow/c.jpg,2,2,0,x", "5,,0,2,0,x", "6,002.Crow/d.jpg,0", lines[2]]
    (folder / "metadata.csv").write_text("\n".join([*lines, *bad]))
    good = open_collection(f"waterbirds:{folder}?split=test")
    assert [record.id for record in good.records] == ["002.Crow/a.jpg", "002.Crow/b.jpg"]
    assert [(one.id, one.reason) for one in good.rejected] == [
        ("002.Crow/c.jpg", "its y is '2', not 0 to 1"),
        ("metadata.csv", "line 6 of metadata.csv names no image"),
        ("002.Crow/d.jpg", "line 7 of metadata.csv is cut short"),
        ("002.Crow/b.jpg", "line 8 of metadata.csv names it again"),
    ]
    (laid_out / "celeba" / "list_eval_partition.csv").write_text("image_id,partition\n1.jpg,2\n")
    (lost,) = open_collection(f"celeba:{laid_out / 'celeba'}").rejected
    assert (lost.id, lost.reason) == ("2.jpg", "list_eval_partition.csv says nothing of it")
    (folder / "metadata.csv").write_text("\n".join([lines[0], bad[0]]))
    with pytest.raises(UsageError, match=r"no image can be used, so 002.Crow/c\.jpg: its y is '2'"):
        open_collection(f"waterbirds:{folder}")


def test_a_file_that_is_named_and_not_there_is_rejected_when_it_is_loaded(laid_out):
    (laid_out / "metadata" / "2.png").unlink()
    collection = open_collection(f"metadata:{laid_out / 'metadata'}")
    gone, there = collection.records
    assert (collection.load(there) == (1, 2, 3)).all()
    with pytest.raises(RejectedImageError, match="can't be read"):
        collection.load(gone)
