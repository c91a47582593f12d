"""What the checks of disagreements and neurons count, on classifiers whose answers are known."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from whylens.planted.checks.judges import Seen
from whylens.planted.checks.shape_bias import coarse, fine, hybrids, shape_bias
from whylens.planted.checks.zero_shot_errors import (
    Pattern,
    confirm,
    pattern_of,
    scenes_with,
    scenes_without,
)
from whylens.planted.drawing.world import BACKGROUNDS, COMPANIONS, LINKS, OBJECTS, Scene


def saying(labels_of):
    """A classifier that is sure of what a function [N, 3, H, W] -> classes [N] says."""

    def probabilities(images):
        return torch.nn.functional.one_hot(labels_of(images), len(OBJECTS)).float()

    return SimpleNamespace(probabilities=probabilities)


@pytest.fixture
def striped():
    """Class k: the brightness says k (coarse), and so does the phase of fine stripes."""
    labels = torch.arange(40) % 4
    stripes = torch.where(torch.arange(64) % 2 == 0, 1.0, -1.0)
    sign = torch.where(labels % 2 == 0, 1.0, -1.0).view(-1, 1, 1, 1)
    brightness = (0.2 + 0.2 * labels).view(-1, 1, 1, 1)
    return (brightness + 0.1 * sign * stripes.view(1, 1, 1, -1)).expand(-1, 3, 64, 64), labels


def by_brightness(images):
    return ((images.mean((1, 2, 3)) - 0.2) / 0.2).round().long().clamp(0, 9)


def test_a_hybrid_has_the_coarse_part_of_one_and_the_fine_part_of_another(striped):
    images, labels = striped
    assert torch.allclose(fine(images), images, atol=0.02)  # all that isn't flat is fine
    assert float((coarse(images) - images.mean(-1, keepdim=True)).abs().max()) < 0.02
    mixed, others = hybrids(images, labels, seed=0)
    assert (labels != others).all()
    assert torch.equal(by_brightness(mixed), labels)
    sign = (mixed[:, 0, 32, 32] - mixed[:, 0, 32, 33]) > 0
    assert torch.equal(sign, others % 2 == 0)


def test_shape_bias_is_the_share_that_the_coarse_part_decides(striped):
    images, labels = striped
    assert shape_bias(saying(by_brightness), images, labels, 0).shape_bias == 1.0
    _, others = hybrids(images, labels, 0)
    by_detail = saying(lambda _: others)
    assert shape_bias(by_detail, images, labels, 0).shape_bias == 0.0
    quarter = torch.arange(40) % 4 == 0
    both = shape_bias(saying(lambda _: torch.where(quarter, labels, others)), images, labels, 0)
    assert both.shape_bias == pytest.approx(0.25)
    neither = shape_bias(saying(lambda _: torch.full((40,), 9)), images, labels, 0)
    assert (neither.decided, neither.shape_bias) == (0.0, 0.0)


def test_a_pattern_is_what_most_wrong_images_share():
    fish, star = OBJECTS.index("fish"), OBJECTS.index("star")
    night, sea = BACKGROUNDS.index("night"), BACKGROUNDS.index("sea")
    seen = Seen(
        np.array([star, star, fish, star]), np.array([night, sea, sea, night]), np.full(4, -1)
    )
    # The third shows a fish indeed.
    assert pattern_of(fish, seen) == Pattern("fish", "star", "night")
    alone = Seen(np.array([fish, star]), np.array([sea, sea]), np.full(2, -1))
    assert pattern_of(fish, alone) is None


def test_scenes_with_and_without_a_pattern():
    pattern = Pattern("fish", "star", companion="flag")
    for scene in scenes_with(pattern, 20):
        assert (scene.object, scene.companion) == ("star", "flag")
    for scene in scenes_without(pattern, 50):
        assert scene.object != "fish"
        assert (scene.object, scene.companion) != ("star", "flag")
    assert {s.object for s in scenes_with(Pattern("fish", background="sea"), 40)} == {
        *OBJECTS,
    } - {"fish"}


def test_only_real_errors_are_confirmed(monkeypatch):
    module = "whylens.planted.checks.zero_shot_errors"
    monkeypatch.setattr(f"{module}.SCENES", 60)
    star, fish = OBJECTS.index("star"), OBJECTS.index("fish")

    # Pictures that are nothing but the scene's numbers.
    def drawn(scene: Scene):
        values = [OBJECTS.index(scene.object), BACKGROUNDS.index(scene.background), 0]
        return SimpleNamespace(image=np.array(values, np.uint8).reshape(1, 1, 3))

    monkeypatch.setattr(f"{module}.draw", drawn)

    def labels(images):
        objects = (images[:, 0, 0, 0] * 255).round().long()
        nights = (images[:, 1, 0, 0] * 255).round().long() == BACKGROUNDS.index("night")
        return torch.where((objects == star) & nights, fish, objects)

    right = saying(lambda images: (images[:, 0, 0, 0] * 255).round().long())
    patterns = [Pattern("fish", "star", "night"), Pattern("boat", "star")]
    real, false = confirm(patterns, saying(labels), right)
    assert (real.rate, real.base_rate, real.other_rate) == (1.0, 0.0, 0.0)
    assert real.confirmed
    assert (false.rate, false.confirmed) == (0.0, False)
    assert real.record()["pattern"]["background"] == "night"


def test_judges_see_a_links_feature():
    seen = Seen(
        np.full(2, -1),
        np.array([BACKGROUNDS.index("sea"), BACKGROUNDS.index("snow")]),
        np.array([-1, COMPANIONS.index("flag")]),
    )
    shown = {link.feature: seen.shows(link).tolist() for link in LINKS}
    assert shown["sea"] == [True, False]
    assert shown["flag"] == [False, True]
    assert not any(shown["night"])
