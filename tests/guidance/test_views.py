import numpy as np
import pytest
import torch
from torch.nn import functional as F

import whylens.guidance.views as module
from whylens.guidance.objectives import Objective, PixelDistance, TargetClass
from whylens.guidance.settings import ViewSettings
from whylens.guidance.views import ViewGenerator, over_views

TARGETS = torch.tensor([1, 5])


def views(seeds=(3, 4), cutouts=3, smallest=0.6, noise=0.01):
    settings = ViewSettings(cutouts=cutouts, smallest=smallest, noise=noise)
    return ViewGenerator(seeds, settings).draw(range(len(seeds)), torch.device("cpu"))


def drawn(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Seen(Objective):
    """Keeps what it is shown, view by view; its value is the mean of the image."""

    def __init__(self, problems=1, view_size=None):
        self.shown, self.calls = [], 0
        self.problems, self.view_size = problems, view_size

    def value_and_gradient(self, images):
        self.shown.extend(images.clone().split(self.problems))
        self.calls += 1
        return images.mean((1, 2, 3)), torch.full_like(images, 1 / images[0].numel())

    def select(self, rows):
        return self


def test_the_gradient_is_the_finite_difference_over_the_same_views(double_classifiers):
    objective = TargetClass(double_classifiers[0], TARGETS)
    images, way, h = drawn(2, 3, 64, 64), drawn(2, 3, 64, 64, seed=1) - 0.5, 1e-8
    _, gradient = over_views(objective, images, views())
    ahead, behind = (over_views(objective, images + sign * h * way, views())[0] for sign in (1, -1))
    slopes = (gradient * way).sum((1, 2, 3))
    assert slopes.abs().min() > 0
    np.testing.assert_allclose(slopes, (ahead - behind) / (2 * h), rtol=2e-4, atol=1e-6)


def test_the_value_is_the_mean_over_the_views_shown():
    seen = Seen(problems=2)
    images = drawn(2, 3, 32, 32)
    value, _ = over_views(seen, images, views(cutouts=5))
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
    over_views(seen, image, shown)
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
    over_views(seen, image, views((1,), cutouts=4, noise=0.05))
    rest = torch.stack(seen.shown) - 0.5
    assert float(rest.std()) == pytest.approx(0.05, rel=0.03)
    assert abs(float(rest.mean())) < 0.002
    assert not torch.equal(seen.shown[0], seen.shown[1])


def test_a_problem_gets_the_same_views_in_any_batch():
    images, settings = drawn(3, 3, 16, 16), ViewSettings(cutouts=3)
    together, alone = ViewGenerator((5, 6, 7), settings), ViewGenerator((7,), settings)
    for rows in ([0, 1, 2], [0, 2], [2]):
        found = together.draw(rows, images.device).of(images[rows], 16)
        own = alone.draw([0], images.device).of(images[2:], 16)
        torch.testing.assert_close(found[:, -1], own[:, 0])
        if len(rows) > 1:
            assert not torch.equal(found[:, 0], own[:, 0])


def test_views_differ_from_step_to_step():
    drawing = ViewGenerator((5,), ViewSettings())
    first, second = (drawing.draw([0], torch.device("cpu")) for _ in range(2))
    assert not torch.equal(first.boxes, second.boxes)
    assert not torch.equal(first.keys, second.keys)


def test_classifiers_of_two_sizes_see_the_same_places_each_at_its_own():
    small, large = Seen(2, view_size=8), Seen(2, view_size=24)
    over_views(small + 2.0 * large, drawn(2, 3, 48, 48), views(cutouts=4, noise=0.0))
    assert [view.shape[-1] for view in (*small.shown, *large.shown)] == [8] * 4 + [24] * 4
    for view, finer in zip(small.shown, large.shown, strict=True):
        torch.testing.assert_close(view, F.avg_pool2d(finer, 3))


@pytest.mark.parametrize("most", [10**6, 32 * 32 * 3, 1])
def test_views_go_to_the_classifier_at_once_or_in_parts(monkeypatch, double_classifiers, most):
    images = drawn(2, 3, 32, 32)
    objective = TargetClass(double_classifiers[0], TARGETS)
    expected = over_views(objective, images, views())
    monkeypatch.setattr(module, "AT_ONCE", most)
    seen = Seen()
    over_views(seen, images, views())
    assert seen.calls == {10**6: 1, 32 * 32 * 3: 2, 1: 6}[most]
    for found, whole in zip(over_views(objective, images, views()), expected, strict=True):
        torch.testing.assert_close(found, whole)


def test_views_that_are_too_many_for_the_memory_go_in_parts():
    class Small(Seen):
        def value_and_gradient(self, images):
            if len(images) > 2:
                raise torch.OutOfMemoryError("no memory")
            return super().value_and_gradient(images)

    images = drawn(2, 3, 16, 16)
    found, expected = (over_views(one, images, views(cutouts=5)) for one in (Small(), Seen()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    Small.value_and_gradient = lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("full"))
    with pytest.raises(torch.OutOfMemoryError, match="full"):
        over_views(Small(), images, views())


def test_a_distance_is_taken_on_the_image_not_on_its_views(double_classifiers):
    images, reference = drawn(2, 3, 64, 64), drawn(2, 3, 64, 64, seed=1)
    target = TargetClass(double_classifiers[0], TARGETS)
    for objective in (target + 4.0 * PixelDistance(reference), PixelDistance(reference) * 4.0):
        value, gradient = over_views(objective, images, views())
        expected = 4 * (images - reference).square().mean((1, 2, 3))
        expected_gradient = 8 * (images - reference) / images[0].numel()
        if len(objective.terms) == 2:
            of_target = over_views(target, images, views())
            expected, expected_gradient = expected + of_target[0], expected_gradient + of_target[1]
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(gradient, expected_gradient)
    # An image that is its reference is not moved away from it.
    _, gradient = over_views(PixelDistance(images), images, views())
    assert not gradient.any()
