"""What the check of counterfactuals counts, on a method whose results are known."""

from pathlib import Path

import numpy as np
import pytest
import torch

from whylens.classifiers import load_classifier
from whylens.diffusion import load_sampler
from whylens.guidance.solutions import Solution
from whylens.images.tensors import to_tensor
from whylens.planted.checks import counterfactuals as check
from whylens.planted.checks.judges import Seen
from whylens.planted.drawing.world import BACKGROUNDS, LINKS, OBJECTS, Scene, draw


@pytest.fixture(scope="module")
def task():
    return check.chosen(load_classifier("planted:balanced"), 10)


def test_drawings_are_rightly_named_and_led_to_another_class(task):
    said = load_classifier("planted:balanced").probabilities(task.images).argmax(1)
    for row, (before, after) in enumerate(zip(task.before, task.after, strict=True)):
        source, target = OBJECTS[said[row]], OBJECTS[task.targets[row]]
        assert source != target
        assert before.replace(f" {source} ", f" {target} ") == after
        assert task.masks[row].any()
    more = check.chosen(load_classifier("planted:balanced"), 12)
    assert more.after[:10] == task.after


def test_parts_are_made_once_and_measured(task, tmp_path, monkeypatch):
    """A method that draws the target's object anew, on the same background."""
    calls = []

    def drawing(sampler, images, before, after, targets, classifier, settings, *, seeds):
        calls.append(len(images))
        made = []
        for row, prompt in enumerate(after):
            words = prompt.split()
            companion = words[-1] if " with a " in prompt else None
            scene = Scene(words[4], prompt.split(" on ")[1].split()[0], companion, (7, row), True)
            made.append(Solution(to_tensor(draw(scene).image), images[row]))
        made[0] = Solution(failed="for a test")
        return made

    monkeypatch.setattr(check, "counterfactual", drawing)
    classifier = load_classifier("planted:balanced")
    arguments = (None, classifier, classifier, "uvce", task, tmp_path, "balanced")
    sampler = load_sampler("planted")
    first = check.make(sampler, *arguments[1:])
    assert calls == [8, 2]
    again = check.make(sampler, *arguments[1:])
    assert calls == [8, 2]
    assert np.array_equal(first.images, again.images)
    assert first.failed.tolist() == [True, *[False] * 7, True, False]
    # Nobody tells the sampler the target's word there: the object stays as it is drawn.
    unworded = check.make(sampler, *arguments[1:3], "unworded", *arguments[4:])
    drawn = torch.from_numpy(unworded.images).permute(0, 3, 1, 2).float() / 255
    assert check.measured(classifier, task, unworded, drawn, task.images)["judged_target"] <= 0.1
    after = torch.from_numpy(first.images).permute(0, 3, 1, 2).float() / 255
    found = check.measured(classifier, task, first, after, task.images)
    # The two that failed stay what they were.
    assert found["failed"] == 2
    assert found["flip"] <= 0.8
    assert found["judged_target"] >= 0.6
    assert found["background_kept"] >= 0.8
    # Another drawing of the same background differs everywhere.
    assert found["outside_change"] > 0.005


def test_passes_are_counted_forward_and_backward():
    layer = torch.nn.Linear(3, 2)
    with check.counted(layer) as passes:
        x = torch.ones(5, 3, requires_grad=True)
        layer(x).sum().backward()
        with torch.no_grad():
            layer(torch.ones(2, 3))
    assert (passes.forward, passes.backward) == (7, 5)
    layer(torch.ones(1, 3))
    assert passes.forward == 7


def test_a_feature_instead_of_the_object_is_counted_for_its_link():
    link = LINKS[0]  # fish on sea
    fish, sea = OBJECTS.index(link.object), BACKGROUNDS.index(link.feature)
    other = (sea + 1) % len(BACKGROUNDS)
    none = np.full(5, -1)
    was = Seen(np.full(5, (fish + 1) % 10), np.array([other, other, other, sea, other]), none)
    seen = Seen(
        np.array([fish, (fish + 1) % 10, fish, (fish + 1) % 10, -1]),
        np.array([sea, sea, other, sea, sea]),
        none,
    )
    targets = np.array([fish, fish, fish, fish, (fish + 1) % 10])
    first, *others = check.by_link(was, seen, targets)
    assert (first["object"], first["feature"], first["images"]) == ("fish", "sea", 3)
    assert first["feature_instead_of_object"] == pytest.approx(1 / 3, abs=1e-4)
    assert first["feature_shown"] == pytest.approx(2 / 3, abs=1e-4)
    assert first["object_shown"] == pytest.approx(2 / 3, abs=1e-4)
    assert all(one["images"] == 0 or one["object"] != "fish" for one in others)


def test_sheets_hold_whole_rows(tmp_path):
    images = torch.rand(6, 3, 64, 64)
    check.save_pictures(check._pairs(images, images), Path(tmp_path) / "x.png", 8)
    assert (tmp_path / "x.png").stat().st_size > 0
