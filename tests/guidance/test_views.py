import numpy as np
import pytest
import torch

from whylens.guidance.objectives import Objective, PixelDistance, TargetClass
from whylens.guidance.views import Views, augmented_value_and_gradient

TARGETS = torch.tensor([1, 5])


def views(seeds=(3, 4), cutouts=3, smallest=0.6, noise=0.01):
    return Views(seeds, cutouts=cutouts, smallest=smallest, noise=noise)


def drawn(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Seen(Objective):
    """Keeps what it is shown; its value is the mean of the image."""

    def __init__(self):
        self.shown = []

    def value_and_gradient(self, images):
        self.shown.append(images.clone())
        return images.mean((1, 2, 3)), torch.full_like(images, 1 / images[0].numel())

    def select(self, rows):
        return self


def test_the_gradient_is_the_finite_difference_over_the_same_views(double_classifiers):
    objective = TargetClass(double_classifiers[0], TARGETS)
    images, way, h = drawn(2, 3, 64, 64), drawn(2, 3, 64, 64, seed=1) - 0.5, 1e-8
    _, gradient = augmented_value_and_gradient(objective, images, [0, 1], views())
    ahead, behind = (
        augmented_value_and_gradient(objective, images + sign * h * way, [0, 1], views())[0]
        for sign in (1, -1)
    )
    slopes = (gradient * way).sum((1, 2, 3))
    assert slopes.abs().min() > 0
    np.testing.assert_allclose(slopes, (ahead - behind) / (2 * h), rtol=2e-4, atol=1e-6)


def test_the_value_is_the_mean_over_the_views_shown():
    seen = Seen()
    images = drawn(2, 3, 32, 32)
    value, _ = augmented_value_and_gradient(seen, images, [0, 1], views(cutouts=5))
    assert len(seen.shown) == 5
    expected = np.mean([view.numpy().mean((1, 2, 3)) for view in seen.shown], axis=0)
    np.testing.assert_allclose(value, expected)


def test_a_view_is_a_square_cutout_inside_the_image_at_the_images_size():
    # Pixels that hold their own coordinates say where a view comes from.
    along = (2 * torch.arange(32, dtype=torch.float64) + 1) / 32 - 1
    rows, columns = torch.meshgrid(along, along, indexing="ij")
    image = torch.stack([columns, rows, torch.zeros_like(rows)])[None]
    seen = Seen()
    shown = views((8,), cutouts=200, smallest=0.5, noise=0.0)
    augmented_value_and_gradient(seen, image, [0], shown)
    sides, centres = [], []
    for view in seen.shown:
        x, y = view[0, 0].numpy(), view[0, 1].numpy()
        # Without the border, where neighbours are missing, a cutout's coordinates are linear.
        inner = slice(4, -4)
        side = (x[16, 20] - x[16, 12]) / (along[20] - along[12]).item()
        centre = np.array([x[16, 15:17].mean(), y[15:17, 16].mean()])
        for found, start, axis in ((x, centre[0], columns), (y, centre[1], rows)):
            expected = start + side * axis.numpy()
            np.testing.assert_allclose(found[inner, inner], expected[inner, inner], atol=1e-6)
        assert (np.abs(centre) <= 1 - side + 1e-6).all()
        sides.append(side)
        centres.append(centre / (1 - side))
    assert 0.5 <= min(sides) < 0.52
    assert 0.98 < max(sides) <= 1
    np.testing.assert_allclose(np.mean(centres, axis=0), 0, atol=0.15)
    assert np.abs(centres).max() > 0.95


def test_the_noise_on_a_view_has_the_deviation_asked_for():
    seen = Seen()
    image = torch.full((1, 3, 64, 64), 0.5)
    augmented_value_and_gradient(seen, image, [0], views((1,), cutouts=4, noise=0.05))
    rest = torch.stack(seen.shown) - 0.5
    assert float(rest.std()) == pytest.approx(0.05, rel=0.03)
    assert abs(float(rest.mean())) < 0.002
    assert not torch.equal(seen.shown[0], seen.shown[1])


def test_a_problem_gets_the_same_views_in_any_batch():
    images = drawn(3, 3, 16, 16)
    together, alone = views((5, 6, 7)), views((7,))
    for rows in ([0, 1, 2], [0, 2], [2]):
        grid, noise = together.draw(rows, images[rows])
        own_grid, own_noise = alone.draw([0], images[2:])
        torch.testing.assert_close(grid[:, -1], own_grid[:, 0])
        torch.testing.assert_close(noise[:, -1], own_noise[:, 0])
        if len(rows) > 1:
            assert not torch.equal(grid[:, 0], own_grid[:, 0])


def test_views_differ_from_step_to_step():
    images, drawing = drawn(1, 3, 16, 16), views((5,))
    first, second = drawing.draw([0], images), drawing.draw([0], images)
    assert not torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])


def test_a_distance_is_taken_on_the_image_not_on_its_views(double_classifiers):
    images, reference = drawn(2, 3, 64, 64), drawn(2, 3, 64, 64, seed=1)
    target = TargetClass(double_classifiers[0], TARGETS)
    for objective in (target + 4.0 * PixelDistance(reference), PixelDistance(reference) * 4.0):
        value, gradient = augmented_value_and_gradient(objective, images, [0, 1], views())
        expected = 4 * (images - reference).square().mean((1, 2, 3))
        expected_gradient = 8 * (images - reference) / images[0].numel()
        if len(objective.terms) == 2:
            of_target = augmented_value_and_gradient(target, images, [0, 1], views())
            expected, expected_gradient = expected + of_target[0], expected_gradient + of_target[1]
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(gradient, expected_gradient)
    # An image that is its reference is not moved away from it.
    _, gradient = augmented_value_and_gradient(PixelDistance(images), images, [0, 1], views())
    assert not gradient.any()
