"""What the names job names: a neuron by the images that activate it most."""

import runpy
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from whylens.classifiers import load_classifier
from whylens.jobs.slices.names import NEURON, things
from whylens.runs import Run
from whylens.runs.lineage import Lineage

made = runpy.run_path(str(Path(__file__).parents[1] / "embedded_run.py"))


@pytest.mark.parametrize("neuron", [3, 11])
def test_a_neuron_is_named_by_the_images_that_activate_it_most(tmp_path, neuron):
    classifier = load_classifier("planted:biased")
    run, features, *_ = made["embedded"](tmp_path, classifier)
    own = Run.start(str(tmp_path / "neurons"), "neurons", {"source": run.folder})
    row = {"neuron": neuron, "class_index": 2, "class_name": classifier.class_names[2]}
    # A word each, of the same neuron.
    own.table("neuron_words").write("all", pa.Table.from_pylist([row, row]))
    (thing,) = things(Lineage(own), 4, classifier)
    assert (thing.kind, thing.number, thing.class_index) == (NEURON, neuron, 2)
    assert (thing.collection, len(thing.image_ids)) == ("main", 4)
    rows = [int(name.removeprefix("main-")) for name in thing.image_ids]
    said = features[rows, neuron]
    np.testing.assert_array_equal(said, np.sort(features[:, neuron])[::-1][:4])
