"""The search of `planted check --confirm` on few drawings, with drawn images for generated ones."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from whylens.classifiers import load_classifier
from whylens.images.tensors import to_tensor
from whylens.planted.checks import confirm
from whylens.planted.checks.confirm import generated, probabilities_of, scored, search
from whylens.planted.checks.discovery import follows_context, shows, shows_nothing
from whylens.planted.drawing.data import draw_many
from whylens.planted.drawing.world import LINKS, OBJECTS, Scene, draw, sample_scene

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


def error(rows, looks_like=None):
    return SimpleNamespace(
        rows=rows, looks_like=looks_like, rate=0.5, low=0.4, high=0.6,
        probability=SimpleNamespace(mean=0.5),
    )  # fmt: skip


def test_an_error_of_a_class_without_a_link_is_of_nothing_planted_or_false():
    pool, cross = draw_many("unlinked", 600, 5), OBJECTS.index("cross")
    others = pool.objects != cross
    nothing = np.flatnonzero(others & shows_nothing(pool))[:20]
    fish, sea = OBJECTS.index("fish"), next(link for link in LINKS if link.feature == "sea")
    at_sea = np.flatnonzero(others & shows(pool, sea) & (pool.objects != fish))[:20]
    asked = []

    def judged(errors, follows):
        def for_context(k, drawn):
            asked.append((k, drawn))
            return follows

        record = scored(errors, pool, "", for_context)
        return [row["true"] for row in record["by_cluster"]], record["precision"], record["recall"]

    assert judged({cross: [error(nothing)]}, True) == ([True], 1.0, 0.0)
    assert judged({cross: [error(nothing)]}, False) == ([False], 0.0, 0.0)
    assert asked == [(cross, nothing.tolist())] * 2
    # What is planted elsewhere is not nothing; a link's own feature needs no intervention.
    assert judged({cross: [error(at_sea)]}, True) == ([False], 0.0, 0.0)
    assert judged({fish: [error(at_sea)]}, False) == ([True], 1.0, 1 / len(LINKS))
    assert judged({fish: [error(nothing)]}, True) == ([False], 0.0, 0.0)
    assert len(asked) == 2


def test_what_is_called_so_for_its_context_is_so_without_its_object():
    biased, fish = load_classifier("planted:biased"), OBJECTS.index("fish")
    drawn = "unlinked", confirm.SEED
    scenes = [sample_scene(*drawn, number) for number in range(600)]
    at_sea = [n for n, one in enumerate(scenes) if one.background == "sea" and one.object != "fish"]
    swimming = [n for n, one in enumerate(scenes) if one.object == "fish"]
    assert min(len(at_sea), len(swimming)) > 20
    assert follows_context(biased, drawn, fish, at_sea)
    assert not follows_context(biased, drawn, fish, swimming)


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
    record = scored(found, pool, "", lambda k, drawn: pytest.fail("only links have errors here"))
    assert record["recall"] == len(CHOSEN) / len(LINKS)
    assert record["precision"] == 1.0
    assert {row["class"] for row in record["by_cluster"]} == {"fish", "ring"}
