"""A collection twice, without and with a watermark across what classifiers see."""

import pickle

import numpy as np
import pytest

from whylens.errors import UsageError
from whylens.images import open_collection
from whylens.images.eval_transform import EvalTransform
from whylens.images.watermark import OPACITY, watermarked

from .conftest import plain


def test_every_image_is_there_without_and_with_a_watermark(tmp_path):
    (tmp_path / "cat").mkdir()
    for name in ("a", "b"):
        (tmp_path / f"cat/{name}.png").write_bytes(plain((0, 40, 80), (90, 60)))
    collection = pickle.loads(pickle.dumps(open_collection(f"watermarked:{tmp_path}")))
    ids = ["cat/a.png", "cat/b.png", "cat/a.png#watermark", "cat/b.png#watermark"]
    assert [record.id for record in collection.records] == ids
    assert {record.class_name for record in collection.records} == {"cat"}
    assert collection.attributes() == {"watermark": ["no", "no", "yes", "yes"]}
    bare, marked = (collection.load(collection.records[row]) for row in (1, 3))
    assert (bare == (0, 40, 80)).all()
    assert (marked == watermarked(bare)).all()
    assert (marked >= bare).all()
    part = collection.part(slice(3, 4))
    assert part.attributes() == {"watermark": ["yes"]}
    assert (part.load(part.records[0]) == marked).all()


def test_an_inner_collection_keeps_its_options():
    collection = open_collection("watermarked:planted:unlinked?count=3&seed=4")
    assert len(collection) == 6
    inner = open_collection("planted:unlinked?count=3&seed=4")
    again = collection.records[4]
    assert (collection.load(again) == watermarked(inner.load(inner.records[1]))).all()
    assert (collection.object_mask(again) == inner.object_mask(inner.records[1])).all()


@pytest.mark.parametrize("shape", [(224, 224), (300, 500), (500, 200)])
def test_a_watermark_lies_inside_of_what_a_classifier_sees(shape):
    grey = np.full((*shape, 3), 100, np.uint8)
    seen = EvalTransform(224, 256)(watermarked(grey)).max(2) > 101
    # Below a line at 40 % of the height, six characters wide, and as high as one.
    down, across = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    assert down[0] >= 0.4 * 224
    assert down[-1] <= (0.4 + 1 / 6.22) * 224 + 2
    assert across[0] <= 0.05 * 224
    assert across[-1] >= 0.93 * 224
    assert 0.02 < seen.mean() < 0.1
    assert watermarked(grey).max() == round(100 + OPACITY * 155)


def test_a_font_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UsageError, match=r"the font /nowhere\.otf can't be read"):
        open_collection("watermarked:planted:unlinked?count=3&font=/nowhere.otf")
