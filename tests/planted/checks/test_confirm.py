"""The search of `planted check --confirm` on few drawings, with drawn images for generated ones."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from whylens.images.tensors import to_tensor
from whylens.planted.checks import confirm
from whylens.planted.checks.confirm import generated, probabilities_of, scored, search
from whylens.planted.drawing.data import draw_many
from whylens.planted.drawing.world import LINKS, OBJECTS, Scene, draw

CHOSEN = [link for link in LINKS if link.feature in {"sea", "balloon"}]


def test_generated_images_are_kept_some_classes_at_a_time(tmp_path, monkeypatch):
    """A check that was stopped makes what is missing, and nothing else."""
    asked = []

    def pull(sampler, a, b, starts, classes):
        asked.append(classes)
        return SimpleNamespace(images=torch.tensor(classes).float()[:, None, None, None])

    monkeypatch.setattr(confirm, "pull", pull)
    monkeypatch.setattr(confirm, "load_sampler", lambda name: None)
    monkeypatch.setattr(confirm, "load_classifier", lambda name: None)
    monkeypatch.setattr(confirm, "best_starts", lambda tried, a, b, k, count: tried[:count])
    images, classes = generated("biased", "balanced", lambda: [1, 2, 3], tmp_path)
    assert classes.tolist() == [k for k in range(len(OBJECTS)) for _ in range(confirm.IMAGES)]
    assert images[:, 0, 0, 0].tolist() == classes.tolist()
    assert len(asked) > 1
    sorted(tmp_path.glob("queries-biased-*.npz"))[-1].unlink()
    again, _ = generated("biased", "balanced", lambda: [1, 2, 3], tmp_path)
    assert (again == images).all()
    assert asked[-1] == asked[-2]
    # Nothing is missing: no image is looked at.
    generated("biased", "balanced", lambda: pytest.fail("plain images"), tmp_path)


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
