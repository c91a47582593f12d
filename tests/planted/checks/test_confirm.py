"""The search of `planted check --confirm` on few drawings, with drawn images for generated ones."""

import numpy as np
import pytest
import torch

from whylens.images.tensors import to_tensor
from whylens.planted.checks.confirm import probabilities_of, scored, search
from whylens.planted.drawing.data import draw_many
from whylens.planted.drawing.world import LINKS, OBJECTS, Scene, draw

CHOSEN = [link for link in LINKS if link.feature in {"sea", "balloon"}]


@pytest.mark.slow
def test_planted_features_are_found_as_systematic_errors(tmp_path):
    pool = draw_many("unlinked", 1200, 5)
    there = probabilities_of("judge_object", pool, tmp_path)[:, : len(OBJECTS)]
    scenes = [
        Scene(None, link.feature if link.kind == "background" else "snow",
              link.feature if link.kind == "companion" else None, (look,))
        for link in CHOSEN for look in range(2)
    ]  # fmt: skip
    queries = torch.stack([to_tensor(draw(scene).image) for scene in scenes])
    classes = np.repeat([OBJECTS.index(link.object) for link in CHOSEN], 2)
    found = search("biased", queries, classes, pool, there, tmp_path)
    record = scored(found, pool, "")
    assert record["recall"] == len(CHOSEN) / len(LINKS)
    assert record["precision"] == 1.0
    assert {row["class"] for row in record["by_cluster"]} == {"fish", "ring"}
