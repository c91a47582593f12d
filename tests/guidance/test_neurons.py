"""Neuron objectives and counterfactuals, against numpy, finite differences, and single runs."""

import numpy as np
import pytest
import torch

from whylens.classifiers import load_classifier
from whylens.guidance.masks import with_margin
from whylens.guidance.neurons import (
    leave_out,
    looked_at,
    mixed_exemplars,
    neuron_counterfactual,
)
from whylens.guidance.objectives import FeatureObjective
from whylens.guidance.settings import EditingSettings, GuidanceSettings
from whylens.planted.drawing.world import draw, sample_scene


@pytest.fixture(scope="module")
def objective():
    classifier = load_classifier("planted:biased").double()
    return FeatureObjective(
        classifier,
        torch.tensor([62, 25, 57]),
        torch.tensor([1.0, -1.0, -1.0]),
        torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64),
        weight_log_p=0.5,
        classes=torch.tensor([3, 5, 1]),
    )


@pytest.fixture(scope="module")
def images():
    return torch.rand(
        (3, 3, 64, 64), dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )


def test_the_loss_is_signed_and_scaled_and_adds_log_p(objective, images):
    values, _ = objective.value_and_gradient(images)
    phi = objective.classifier.features(images).detach()
    logits = objective.classifier.logits(images).detach()
    for row, (n, sign, scale, k) in enumerate(
        [(62, 1, 0.5, 3), (25, -1, 2.0, 5), (57, -1, 1.0, 1)]
    ):
        log_p = logits[row, k] - torch.logsumexp(logits[row], 0)
        assert float(values[row]) == pytest.approx(
            float(-sign * phi[row, n] / scale - 0.5 * log_p), abs=1e-9
        )


def test_the_gradient_is_that_of_finite_differences(objective, images):
    _, gradient = objective.value_and_gradient(images)
    step = torch.randn(
        images.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )
    # So small a step that no ReLU's kink lies in it: one does at 3e-7 of the second image's way.
    ahead, behind = (objective.value_and_gradient(images + e * step)[0] for e in (1e-8, -1e-8))
    expected = (ahead - behind) / 2e-8
    assert torch.allclose((gradient * step).flatten(1).sum(1), expected, rtol=1e-4, atol=1e-6)


def test_selected_problems_are_the_same_as_alone(objective, images):
    rows = torch.tensor([2, 0])
    values, gradients = objective.value_and_gradient(images)
    some, of_some = objective.select(rows).value_and_gradient(images[rows])
    assert torch.allclose(some, values[rows])
    assert torch.allclose(of_some, gradients[rows])


def test_a_neuron_rises_and_falls_in_a_batch_as_alone(double_sampler, double_classifiers):
    classifier, size = double_classifiers[0], double_sampler.image_size
    images = torch.rand(
        (2, 3, size, size), dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )
    phi = classifier.features(images)
    neuron = int((phi[0] * phi[1]).argmax())  # one that is alive in both
    settings = GuidanceSettings(
        chain={"steps": 2},
        optimiser={"steps": 4, "learning_rate": 0.05},
        views={"cutouts": 0},
        regularisers={"pixels": 0.0},
    )

    def changed(rows, signs):
        objective = FeatureObjective(
            classifier,
            torch.full((len(rows),), neuron),
            torch.tensor(signs).double(),
            torch.ones(len(rows)).double(),
        )
        prompts = ["a photo of a fish"] * len(rows)
        return neuron_counterfactual(
            double_sampler, images[rows], prompts, prompts, objective, settings, seeds=rows
        )

    together = changed([0, 1], [1.0, -1.0])
    (up,), (down,) = changed([0], [1.0]), changed([1], [-1.0])
    for alone, row in zip((up, down), together, strict=True):
        assert torch.allclose(alone.image, row.image, atol=1e-9)
    for solution, sign in zip(together, (1, -1), strict=True):
        before, after = (
            float(classifier.features(image[None])[0, neuron])
            for image in (solution.start_image, solution.image)
        )
        assert sign * (after - before) > 0
        # The first image is the inverted one, returned to.
        assert solution.loss_trajectory[0] == pytest.approx(-sign * before, abs=1e-9)


# The planted biased classifier's neuron that tells drawings with a companion from others best, by
# `whylens planted check --neurons`.
SEES = {"flag": 57, "flower": 23, "balloon": 32, "crate": 73}


@pytest.mark.slow
@pytest.mark.parametrize("companion", SEES)
def test_a_falling_neuron_may_change_what_it_sees_and_not_the_rest(companion):
    drawings = [draw(sample_scene("clear", 5, place)) for place in range(400)]
    drawings = [d for d in drawings if d.scene.companion == companion][:12]
    assert len(drawings) == 12
    images = torch.stack([torch.from_numpy(d.image).permute(2, 0, 1) / 255 for d in drawings])
    truth = torch.stack([torch.from_numpy(d.masks["companion"]) for d in drawings])
    neuron = torch.full((12,), SEES[companion])
    signs = torch.tensor([-1.0] * 11 + [1.0])
    raw = looked_at(FeatureObjective(load_classifier("planted:biased"), neuron, signs), images)
    masks = with_margin(raw, 0.0625)[:, 0]
    falling, seen = masks[:11], truth[:11]
    assert (falling * seen).sum() > 0.9 * seen.sum()
    assert (falling * ~seen).sum() < 0.45 * (~seen).sum()
    # A rising one has seen nothing yet.
    assert masks[11].min() > 0.999


def test_outside_of_what_a_falling_neuron_sees_an_image_stays_what_it_is(
    double_sampler, double_classifiers
):
    classifier, size = double_classifiers[0], double_sampler.image_size
    images = torch.rand(
        (2, 3, size, size), dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )
    settings = GuidanceSettings(
        chain={"steps": 2}, optimiser={"steps": 2, "learning_rate": 0.05}, views={"cutouts": 0}
    )
    objective = FeatureObjective(
        classifier, torch.tensor([1, 1]), torch.tensor([-1.0, -1.0]).double()
    )
    prompts = ["a photo of a fish"] * 2

    def changed(**options):
        return neuron_counterfactual(
            double_sampler, images, prompts, prompts, objective,
            settings.model_copy(update={"editing": EditingSettings(**options)}),
        )  # fmt: skip

    for solution, image in zip(changed(), images, strict=True):
        far = solution.mask[0] < 1e-3
        assert far.any()
        change = (solution.image - image).abs()
        assert change[:, far].max() < 1e-3
        assert change[:, solution.mask[0] > 0.5].max() > 1e-3
    for solution, image in zip(changed(mask="none"), images, strict=True):
        assert solution.mask is None
        assert ((solution.image - image).abs().amax(0) > 0).all()
    with pytest.raises(ValueError, match="know no given masks"):
        changed(mask="given")


def test_inputs_must_be_as_many_as_images(sampler, objective):
    images = torch.rand(2, 3, 16, 16)
    with pytest.raises(ValueError, match=r"objective.features has 3 entries for 2 images"):
        neuron_counterfactual(sampler, images, ["a"] * 2, ["a"] * 2, objective, GuidanceSettings())


def test_exemplars_are_of_many_classes():
    activations, labels = (
        np.array([9, 8, 7, 6, 5, 4, 3, 2.0]),
        np.array([0, 0, 0, 1, -1, -1, -1, 1]),
    )
    # A sixth of six is one of each class; what has no class is not held back.
    assert mixed_exemplars(activations, labels, 6).tolist() == [0, 3, 4, 5, 6]
    assert mixed_exemplars(activations, labels, 12).tolist() == [0, 1, 3, 4, 5, 6, 7]
    assert mixed_exemplars(activations, labels, 2).tolist() == [0, 3]


@pytest.mark.parametrize(
    ("caption", "word", "left"),
    [
        ("a photo of a fish on sea with a flag", "flag", "a photo of a fish on sea"),
        ("a photo of a fish on sea with a flag", "sea", "a photo of a fish with a flag"),
        ("a photo of the Sea", "sea", "a photo"),
        ("seaside", "sea", "seaside"),
        ("sea", "sea", "sea"),
        ("a dog, an apple and the ball", "ball", "a dog, an apple"),
    ],
)
def test_a_word_is_left_out_with_its_preposition(caption, word, left):
    assert leave_out(caption, word) == left
