"""Any text finds what shows it, by the planted CLIP-like model, in a run written by hand."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from whylens.classifiers import load_classifier
from whylens.errors import UsageError
from whylens.images.tensors import to_tensor
from whylens.jobs.slices.by_text import find
from whylens.jobs.slices.names import PICTURES, TABLE
from whylens.neural_pca.naming import shared, unit
from whylens.planted.drawing.world import Scene, draw
from whylens.runs import Run

SHOWN = ("sea", "night", "meadow")


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """Six drawings of each background; a component of each is named beside the others."""
    clip = load_classifier("planted:clip")
    images = torch.stack(
        [to_tensor(draw(Scene(None, one, None, (7, n))).image) for one in SHOWN for n in range(6)]
    )
    with torch.inference_mode():
        embedded = clip.features(images).numpy()
        texts = clip.embed_texts([f"a photo of {one}" for one in SHOWN]).numpy()
    spec = {"model": "planted:clip", "names": {"templates": ["a photo of {word}"]}}
    run = Run.start(str(tmp_path_factory.mktemp("named") / "run"), "names", spec)
    common = unit(texts).mean(0)
    rows = [
        {"kind": "component", "class_name": f"class {place}", "number": place, "words": [one],
         "direction": shared(embedded[6 * place : 6 * place + 6], embedded), "common": common}
        for place, one in enumerate(SHOWN)
    ]  # fmt: skip
    pictures = [
        {"collection": "main", "image_id": f"{one}-{n}", "embedding": embedded[6 * place + n]}
        for place, one in enumerate(SHOWN)
        for n in range(6)
    ]
    run.table(TABLE).write("all", pa.Table.from_pylist(rows))
    # An image that two things were named by is one answer.
    run.table(PICTURES).write("all", pa.Table.from_pylist(pictures + pictures[:3]))
    return run.folder


@pytest.mark.parametrize("text", SHOWN)
def test_a_text_finds_what_shows_it_first(named, text):
    answer = find(named, text, count=6)
    first, *rest = answer.things
    assert first.words == (text,)
    assert first.score > 0 > max(one.score for one in rest)
    assert {one.id for one in answer.images} == {f"{text}-{n}" for n in range(6)}
    assert np.all(np.diff([one.score for one in answer.images]) <= 0)
    assert answer.record()["things"][0]["class_name"] == first.class_name


def test_what_cannot_be_searched_is_told(named, tmp_path):
    with pytest.raises(UsageError, match="--text is empty"):
        find(named, " ")
    other = Run.start(str(tmp_path / "run"), "embed", {})
    with pytest.raises(UsageError, match="was named: run whylens names --source"):
        find(other.folder, "sea")
