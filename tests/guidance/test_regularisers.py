"""Penalties on latents and deltas: their gradients are autograd's, and they hold."""

import pytest
import torch

from whylens.diffusion import load_sampler
from whylens.guidance.objectives import TargetClass
from whylens.guidance.problems import Problems
from whylens.guidance.regularisers import Regularisers
from whylens.guidance.settings import GuidanceSettings, RegulariserSettings
from whylens.guidance.solutions import solve


def test_gradients_are_those_of_the_values():
    generator = torch.Generator().manual_seed(0)
    start, moved = (torch.randn(3, 2, 4, 5, generator=generator).double() for _ in range(2))
    kept, latents = (torch.randn(3, 2, 4, 4, generator=generator).double() for _ in range(2))
    settings = RegulariserSettings(latents=0.7, deltas=1.3)
    penalty = Regularisers({"text_delta": start}, kept, settings)
    values = penalty.values(latents, {"text_delta": moved})
    moved.requires_grad_(True)
    latents.requires_grad_(True)
    expected = 0.7 * (latents - kept).square().mean((1, 2, 3)) + 1.3 * (
        moved - start
    ).square().mean((1, 2, 3))
    torch.testing.assert_close(values, expected.detach())
    at_delta, at_latents = torch.autograd.grad(expected.sum(), [moved, latents])
    torch.testing.assert_close(penalty.at_variables({"text_delta": moved})["text_delta"], at_delta)
    torch.testing.assert_close(penalty.at_latents(latents.detach()), at_latents)
    # A problem that leaves takes its row along.
    rows = torch.tensor([2, 0])
    penalty.select(rows)
    fewer = penalty.values(latents[rows].detach(), {"text_delta": moved[rows].detach()})
    torch.testing.assert_close(fewer, expected[rows].detach())


def test_absolute_distances_of_the_background_are_weighed_by_its_mask():
    generator = torch.Generator().manual_seed(0)
    kept, latents = (torch.randn(3, 2, 4, 4, generator=generator).double() for _ in range(2))
    weights = torch.rand(3, 1, 4, 4, generator=generator).double()
    penalty = Regularisers({}, kept, RegulariserSettings(latents=0.7, power=1), weights)
    latents.requires_grad_(True)
    expected = 0.7 * (weights * (latents - kept).abs()).mean((1, 2, 3))
    torch.testing.assert_close(penalty.values(latents.detach(), {}), expected.detach())
    (slope,) = torch.autograd.grad(expected.sum(), latents)
    torch.testing.assert_close(penalty.at_latents(latents.detach()), slope)
    rows = torch.tensor([2, 0])
    penalty.select(rows)
    fewer = penalty.values(latents[rows].detach(), {})
    torch.testing.assert_close(fewer, expected[rows].detach())


def test_without_a_reference_the_first_result_is_it():
    settings = RegulariserSettings(latents=1.0)
    first = torch.full((2, 1, 2, 2), 3.0)
    penalty = Regularisers({}, None, settings)
    assert penalty.values(first, {}).tolist() == [0.0, 0.0]
    assert penalty.values(first + 1, {}).tolist() == [1.0, 1.0]
    given = Regularisers({}, torch.ones(2, 1, 2, 2), settings)
    assert given.values(first, {}).tolist() == [4.0, 4.0]
    assert given.values(first + 1, {}).tolist() == [9.0, 9.0]
    none = Regularisers({"text_delta": first}, None, RegulariserSettings())
    assert none.at_latents(first) is None
    assert none.at_variables({"text_delta": first}) == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["latents", "deltas"])
def test_an_image_that_is_held_moves_less(name, classifier):
    sampler = load_sampler("planted")
    settings = GuidanceSettings(
        chain={"steps": 4}, optimiser={"steps": 5, "learning_rate": 0.05}, views={"cutouts": 0}
    )
    problems = Problems.from_prompts(sampler, ["a photo of a moon"] * 2, [1, 2])
    objective = TargetClass(classifier, torch.tensor([0, 1]))
    moved = []
    for weight in (0.0, 3000.0):
        held = settings.model_copy(update={"regularisers": RegulariserSettings(**{name: weight})})
        solutions = solve(sampler, problems, objective, held)
        # The start, then where five steps lead: the best by the loss may be the start itself.
        moved.append([s.loss_trajectory[0] - min(s.loss_trajectory) for s in solutions])
    free, bound = moved
    assert all(b < f for f, b in zip(free, bound, strict=True))
