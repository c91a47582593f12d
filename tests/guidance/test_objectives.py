import numpy as np
import pytest
import torch

from whylens.guidance.objectives import (
    ComponentObjective,
    Disagreement,
    Objective,
    PixelDistance,
    TargetClass,
)

TARGETS = torch.tensor([2, 7, 0])


def drawn(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def images():
    return drawn(3, 3, 64, 64)


class Remote(Objective):
    """An objective that knows its gradient by itself, as an actor elsewhere would: sum of cubes."""

    def __init__(self, factors):
        self.factors = factors

    def value_and_gradient(self, images):
        factors = self.factors.view(-1, 1, 1, 1)
        return (factors * images**3).sum((1, 2, 3)), 3 * factors * images**2

    def select(self, rows):
        return Remote(self.factors[rows])


def every_objective(classifiers):
    a, b = classifiers
    directions = drawn(3, a.feature_size, seed=1) - 0.5
    offsets = drawn(3, seed=2)
    reference, mask = drawn(3, 3, 64, 64, seed=3), drawn(3, 1, 64, 64, seed=4)
    component = ComponentObjective(a, directions, offsets, weight_log_p=0.3, classes=TARGETS)
    return {
        "cross-entropy": TargetClass(a, TARGETS),
        "probability": TargetClass(a, TARGETS, "probability"),
        "disagreement": Disagreement(a, b, TARGETS, TARGETS.flip(0)),
        "component": ComponentObjective(a, directions, offsets),
        "component and log p": component,
        "distance": PixelDistance(reference),
        "masked distance": PixelDistance(reference, mask),
        "elsewhere": Remote(drawn(3, seed=5)),
        "sum": 2 * (TargetClass(a, TARGETS) + 0.5 * PixelDistance(reference)) + component,
    }


NAMES = (
    "cross-entropy", "probability", "disagreement", "component", "component and log p", "distance",
    "masked distance", "elsewhere", "sum",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_the_finite_differences_of_the_values(double_classifiers, images, name):
    objective = every_objective(double_classifiers)[name]
    values, gradients = objective.value_and_gradient(images)
    assert values.shape == (3,)
    assert gradients.shape == images.shape
    assert not values.requires_grad
    assert not gradients.requires_grad
    for seed in (6, 7):
        way, h = drawn(3, 3, 64, 64, seed=seed) - 0.5, 1e-8
        ahead, behind = (
            objective.value_and_gradient(images + sign * h * way)[0] for sign in (1, -1)
        )
        slopes = (gradients * way).sum((1, 2, 3))
        assert slopes.abs().min() > 0
        np.testing.assert_allclose(slopes, (ahead - behind) / (2 * h), rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_some_problems_alone_have_the_same_values_and_gradients(double_classifiers, images, name):
    objective = every_objective(double_classifiers)[name]
    values, gradients = objective.value_and_gradient(images)
    rows = torch.tensor([2, 0])
    some_values, some_gradients = objective.select(rows).value_and_gradient(images[rows])
    torch.testing.assert_close(some_values, values[rows])
    torch.testing.assert_close(some_gradients, gradients[rows])
    again, _ = objective.select(rows).select(torch.tensor([1])).value_and_gradient(images[:1])
    torch.testing.assert_close(again, values[:1])


def probabilities(classifier, images):
    with torch.no_grad():
        logits = classifier.logits(images).numpy()
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def test_target_class_is_minus_log_p_or_minus_p(double_classifiers, images):
    a, _ = double_classifiers
    p = probabilities(a, images)[range(3), TARGETS]
    values, _ = TargetClass(a, TARGETS).value_and_gradient(images)
    np.testing.assert_allclose(values, -np.log(p), rtol=1e-10)
    values, _ = TargetClass(a, TARGETS, "probability").value_and_gradient(images)
    np.testing.assert_allclose(values, -p, rtol=1e-10)


def test_disagreement_is_lowest_where_the_first_sees_the_class_and_the_second_does_not(
    double_classifiers, images
):
    a, b = double_classifiers
    values, _ = Disagreement(a, b, TARGETS, TARGETS.flip(0)).value_and_gradient(images)
    p_a = probabilities(a, images)[range(3), TARGETS]
    p_b = probabilities(b, images)[range(3), TARGETS.flip(0)]
    np.testing.assert_allclose(values, p_b - p_a, rtol=1e-10)


def test_component_is_minus_alpha_in_units_of_its_direction(double_classifiers, images):
    a, _ = double_classifiers
    directions, offsets = drawn(3, a.feature_size, seed=1), drawn(3, seed=2)
    with torch.no_grad():
        features = a.features(images)
    alphas = torch.stack(
        [d @ f - c for d, f, c in zip(directions, features, offsets, strict=True)]
    ).numpy()
    lengths = np.linalg.norm(directions.numpy(), axis=1)
    values, _ = ComponentObjective(a, directions, offsets).value_and_gradient(images)
    np.testing.assert_allclose(values, -alphas / lengths, rtol=1e-10)
    values, _ = ComponentObjective(
        a, directions, offsets, weight_log_p=0.3, classes=TARGETS, scale=torch.tensor([1.0, 2, 4])
    ).value_and_gradient(images)
    log_p = np.log(probabilities(a, images)[range(3), TARGETS])
    np.testing.assert_allclose(values, -alphas / [1, 2, 4] - 0.3 * log_p, rtol=1e-10)


def test_pixel_distance_is_the_mean_square_where_the_mask_is():
    images, reference = drawn(2, 3, 4, 4), drawn(2, 3, 4, 4, seed=1)
    values, gradients = PixelDistance(reference).value_and_gradient(images)
    difference = (images - reference).numpy()
    np.testing.assert_allclose(values, (difference**2).mean((1, 2, 3)))
    np.testing.assert_allclose(gradients, 2 * difference / 48)
    mask = torch.zeros(2, 1, 4, 4, dtype=torch.float64)
    mask[:, :, 1:3, 2] = 1
    values, gradients = PixelDistance(reference, mask).value_and_gradient(images)
    np.testing.assert_allclose(values, (difference[:, :, 1:3, 2] ** 2).sum((1, 2)) / 48)
    assert not gradients[:, :, 0].any()


def test_objectives_add_and_scale_wherever_they_are_computed(double_classifiers, images):
    a, _ = double_classifiers
    target, remote = TargetClass(a, TARGETS), Remote(drawn(3, seed=5))
    both = (target + remote * 0.25) * 2 + remote
    for part in range(2):
        expected = (
            2 * target.value_and_gradient(images)[part]
            + 1.5 * remote.value_and_gradient(images)[part]
        )
        torch.testing.assert_close(both.value_and_gradient(images)[part], expected)


def test_classifiers_and_images_are_left_without_gradients(double_classifiers, images):
    for objective in every_objective(double_classifiers).values():
        with torch.no_grad():
            objective.value_and_gradient(images)
    assert images.grad is None
    assert not images.requires_grad
    for classifier in double_classifiers:
        assert all(parameter.grad is None for parameter in classifier.parameters())
