"""Data sets with attributes, laid out as their authors do, of one pixel a picture."""

import pickle

import pytest

from whylens.errors import UsageError
from whylens.images import open_collection

from .conftest import plain

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
    ],
)
def test_a_wrong_layout_is_told_in_a_sentence(tmp_path, layout, said):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(plain((0, 0, 0)))
    with pytest.raises(UsageError, match=said):
        open_collection(f"{layout}:{tmp_path}")


def test_wrong_columns_options_and_splits_are_told(laid_out):
    with pytest.raises(UsageError, match="no split 'val'; there are: test, train"):
        open_collection(f"waterbirds:{laid_out / 'waterbirds'}?split=val")
    with pytest.raises(UsageError, match="unknown option 'target'"):
        open_collection(f"waterbirds:{laid_out / 'waterbirds'}?target=y")
    with pytest.raises(UsageError, match="has not the columns image_id, Hat, Male"):
        open_collection(f"celeba:{laid_out / 'celeba'}?target=Hat")
    with pytest.raises(UsageError, match="no folder"):
        open_collection(f"spawrious:{laid_out / 'nowhere'}")
