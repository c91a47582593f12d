"""Auto-PGD against optima that are known, and a batch against its problems alone."""

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, minimize
from torch import nn

from whylens.guidance.apgd import apgd, checkpoints, project
from whylens.guidance.objectives import LocalObjective


class Linear(LocalObjective):
    """-<g, x> for each problem's own g."""

    def __init__(self, slopes):
        self.slopes = slopes

    def loss(self, images):
        return -(images * self.slopes).flatten(1).sum(1)

    def select(self, rows):
        return Linear(self.slopes[rows])


class Bumpy(LocalObjective):
    """The output of a small network with several maxima, another one for each problem."""

    def __init__(self, network, channels):
        self.network, self.channels = network, channels

    def loss(self, images):
        return -self.network(images).gather(1, self.channels[:, None])[:, 0]

    def select(self, rows):
        return Bumpy(self.network, self.channels[rows])


def slopes(count, seed=0):
    """Slopes of very different sizes, so that some pixels reach the box and others don't."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 3, 4, 4)
    sizes = torch.exp(2 * torch.randn(shape, generator=generator, dtype=torch.float64))
    return sizes * torch.randn(shape, generator=generator, dtype=torch.float64)


def best_of_linear(slope, centre, radius):
    """max <g, x> over ball and box: x = clip(centre + t g), t where the norm is the radius."""

    def at(t):
        return np.clip(centre + t * slope, 0, 1)

    def excess(t):
        return np.linalg.norm(at(t) - centre) - radius

    t = brentq(excess, 0, 1e8) if excess(1e8) > 0 else 1e8
    return float((slope * at(t)).sum()), at(t)


@pytest.mark.parametrize("radius", [0.3, 1.5, 2.8, 9.0])
def test_the_best_of_a_linear_classifier_is_found_in_ball_and_box(radius):
    objective, centre = Linear(slopes(3)), torch.full((3, 3, 4, 4), 0.5, dtype=torch.float64)
    *_, found = apgd(objective, centre, radius, 200)
    assert (found.images >= 0).all()
    assert (found.images <= 1).all()
    assert ((found.images - 0.5).flatten(1).norm(dim=1) <= radius * (1 + 1e-9)).all()
    for row, slope in enumerate(objective.slopes.numpy()):
        value, where = best_of_linear(slope, 0.5, radius)
        assert -float(found.values[row]) == pytest.approx(value, rel=1e-4)
        if radius < 5:  # beyond, only pixels that hardly count are left
            assert np.linalg.norm(found.images[row].numpy() - where) < 0.05 * radius


def test_the_projection_is_the_nearest_point_of_ball_and_box():
    generator = torch.Generator().manual_seed(2)
    centre = torch.rand(4, 3, 2, 2, generator=generator, dtype=torch.float64)
    outside = centre + 2 * torch.randn(4, 3, 2, 2, generator=generator, dtype=torch.float64)
    for radius in (0.4, 0.9, 5.0):
        near = project(outside, centre, radius)
        for c, y, x in zip(centre.numpy(), outside.numpy(), near.numpy(), strict=True):
            c, y, x = c.ravel(), y.ravel(), x.ravel()
            reference = minimize(
                lambda p, y=y: ((p - y) ** 2).sum(),
                c,
                jac=lambda p, y=y: 2 * (p - y),
                bounds=[(0, 1)] * len(c),
                constraints={
                    "type": "ineq",
                    "fun": lambda p, c=c, r=radius: r**2 - ((p - c) ** 2).sum(),
                    "jac": lambda p, c=c: -2 * (p - c),
                },
                options={"ftol": 1e-14, "maxiter": 500},
            )
            np.testing.assert_allclose(x, reference.x, atol=1e-4)
    inside = (centre + 0.01).clamp(0, 1)
    torch.testing.assert_close(project(inside, centre, 1.0), inside)


def test_the_checkpoints_are_those_of_the_paper_s_code():
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]


def network():
    torch.manual_seed(4)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GELU(), nn.Conv2d(8, 6, 3), nn.GELU(), nn.Flatten(), nn.Linear(54, 5)
    ).double()


def test_a_batch_gives_what_its_problems_give_alone():
    objective = Bumpy(network(), torch.arange(5))
    centre = torch.rand(5, 3, 7, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    *_, together = apgd(objective, centre, 2.0, 16)
    for row in range(5):
        *_, alone = apgd(objective.select(torch.tensor([row])), centre[[row]], 2.0, 16)
        torch.testing.assert_close(alone.images[0], together.images[row])
        torch.testing.assert_close(alone.values[0], together.values[row])
        assert alone.step_sizes[0] == together.step_sizes[row]
    assert len(set(together.step_sizes.tolist())) > 1  # each has its own


def test_it_beats_plain_projected_steps_and_never_ends_above_its_start():
    objective = Bumpy(network(), torch.arange(5))
    centre = torch.full((5, 3, 7, 7), 0.5, dtype=torch.float64)
    start, _ = objective.value_and_gradient(centre)
    *_, found = apgd(objective, centre, 2.0, 60)
    value, _ = objective.value_and_gradient(found.images)
    torch.testing.assert_close(value, found.values)
    plain = centre
    for _ in range(60):
        _, gradient = objective.value_and_gradient(plain)
        gradient = gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        plain = project(plain - 0.4 * gradient, centre, 2.0)
    reached, _ = objective.value_and_gradient(plain)
    assert (found.values <= reached + 1e-6).all()
    assert (found.values < start).all()


def test_without_a_gradient_the_start_stays():
    flat = Linear(torch.zeros(2, 3, 4, 4))
    centre = torch.full((2, 3, 4, 4), 0.5)
    *_, found = apgd(flat, centre, 1.0, 10)
    assert torch.equal(found.images, centre)
