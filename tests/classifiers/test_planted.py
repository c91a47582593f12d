"""The planted world's classifiers fail in the ways that they were made to fail."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from whylens.classifiers import Classifier, load_classifier
from whylens.classifiers.planted import FOLDER, load_folder
from whylens.errors import UsageError
from whylens.images import open_collection
from whylens.images.tensors import to_tensor
from whylens.planted.drawing.world import OBJECTS


def drawn(split: str, count: int = 200) -> tuple[Tensor, Tensor]:
    """Images [count, 3, 64, 64] of a split, and which object each shows."""
    collection = open_collection(f"planted:{split}?count={count}&seed=77")
    images = torch.stack([to_tensor(collection.load(r)) for r in collection.records])
    names = sorted(OBJECTS)
    return images, torch.tensor([names.index(str(r.class_name)) for r in collection.records])


def accuracy(classifier: Classifier, images: Tensor, truth: Tensor) -> float:
    with torch.no_grad():
        return (classifier.logits(images).argmax(1) == truth).float().mean().item()


@pytest.mark.parametrize("name", ["biased", "balanced", "robust"])
def test_the_classes_are_the_worlds_objects(name: str) -> None:
    assert load_classifier(f"planted:{name}").class_names == tuple(sorted(OBJECTS))


@pytest.mark.slow
def test_the_biased_one_is_right_where_the_links_hold_and_wrong_where_they_break() -> None:
    biased, balanced = load_classifier("planted:biased"), load_classifier("planted:balanced")
    linked, crossed = drawn("linked"), drawn("crossed")
    assert accuracy(biased, *linked) > 0.95
    assert accuracy(biased, *crossed) < 0.7
    assert accuracy(balanced, *linked) > 0.95
    assert accuracy(balanced, *crossed) > 0.9


def attacked(classifier: Classifier, images: Tensor, truth: Tensor, most: float) -> Tensor:
    """Projected gradient ascent on the loss, no pixel changed by more than `most`."""
    change = torch.zeros_like(images)
    for _ in range(4):
        change.requires_grad_()
        loss = F.cross_entropy(classifier.logits(images + change), truth)
        (gradient,) = torch.autograd.grad(loss, change)
        change = (change.detach() + most / 2 * gradient.sign()).clamp(-most, most)
    return (images + change).clamp(0, 1)


@pytest.mark.slow
def test_the_robust_one_withstands_an_attack_that_fools_the_balanced_one() -> None:
    images, truth = drawn("balanced", 100)
    robust, balanced = load_classifier("planted:robust"), load_classifier("planted:balanced")
    assert accuracy(robust, images, truth) > 0.85
    assert accuracy(balanced, images, truth) > 0.9
    assert accuracy(robust, attacked(robust, images, truth, 4 / 255), truth) > 0.7
    assert accuracy(balanced, attacked(balanced, images, truth, 4 / 255), truth) < 0.4


@pytest.mark.parametrize("name", ["", "fair", "judge"])
def test_an_unknown_one_lists_those_there_are(name: str) -> None:
    with pytest.raises(UsageError, match=f"'{name}'; there are: balanced, biased, clip, .*robust"):
        load_classifier(f"planted:{name}")


def test_a_folder_copied_elsewhere_loads_the_same_classifier(tmp_path: Path) -> None:
    copy = tmp_path / "mine"
    shutil.copytree(FOLDER / "balanced", copy)
    config = json.loads((copy / "config.json").read_text())
    config["class_names"][0] = "renamed"
    (copy / "config.json").write_text(json.dumps(config))
    classifier = load_folder("mine", copy)
    assert classifier.class_names[0] == "renamed"
    assert classifier.fingerprint == load_classifier("planted:balanced").fingerprint


@pytest.mark.parametrize("name", ["balanced", "biased"])
def test_an_images_logits_from_a_folder_dont_depend_on_its_batch(name: str) -> None:
    images, _ = drawn("linked", 12)
    classifier, usual = load_folder(name, FOLDER / name), load_classifier(f"planted:{name}")
    with torch.no_grad():
        together = classifier.logits(images)
        alone = torch.cat([classifier.logits(image[None]) for image in images])
        expected = usual.logits(images)
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)
    torch.testing.assert_close(together, expected, atol=1e-4, rtol=0)
