"""Each problem's steps are those of torch's own optimisers on that problem alone."""

import math

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

from whylens.guidance.descent import Descent
from whylens.guidance.settings import OptimiserSettings

FACTORS = {"latents": 0.1, "text_delta": 1.0, "null_delta": 1.3}
SHAPES = {"latents": (3, 4, 4), "text_delta": (5, 2, 6), "null_delta": (5, 2, 6)}
STEPS, PROBLEMS, RATE = 6, 3, 0.05
OPTIMISERS = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": lambda groups: torch.optim.SGD(groups, momentum=0.9),
}


def draw(seed):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn((PROBLEMS, *shape), generator=generator, dtype=torch.float64)
        for name, shape in SHAPES.items()
    }


def slopes(variables):
    """Of problems and variables of very different steepness."""
    return {
        name: value.sin() * torch.tensor([1e-3, 1.0, 30.0]).view(-1, *[1] * (value.ndim - 1))
        for name, value in variables.items()
    }


def by_torch(kind, bound, cosine_floor):
    """What torch's optimiser makes of each problem alone."""
    ends = []
    for row in range(PROBLEMS):
        variables = {name: value[row].clone().requires_grad_() for name, value in draw(0).items()}
        optimiser = OPTIMISERS[kind](
            [{"params": [v], "lr": RATE * FACTORS[name]} for name, v in variables.items()]
        )
        rates = None
        if cosine_floor is not None:
            rates = CosineAnnealingLR(optimiser, STEPS, eta_min=RATE * cosine_floor)
        for _ in range(STEPS):
            whole = {name: torch.stack([v.detach()] * PROBLEMS) for name, v in variables.items()}
            for name, slope in slopes(whole).items():
                variables[name].grad = slope[row]
                bound(variables[name])
            optimiser.step()
            if rates is not None:
                rates.step()
        ends.append({name: value.detach() for name, value in variables.items()})
    return {name: torch.stack([end[name] for end in ends]) for name in SHAPES}


def ours(**settings):
    settings = OptimiserSettings(steps=STEPS, learning_rate=RATE, relative_epsilon=0, **settings)
    descent, variables = Descent(settings, FACTORS), draw(0)
    for step in range(STEPS):
        variables = descent.moved([step] * PROBLEMS, variables, slopes(variables))
    return variables


def rescaled(variable):
    torch.nn.utils.clip_grad_norm_(variable, 0.02, "inf")


def of_length_one(variable):
    rescaled(variable)
    variable.grad /= variable.grad.norm()


BOUNDS = {
    "as they are": ({}, lambda variable: None),
    "clamped": ({"clip": 0.02}, lambda v: torch.nn.utils.clip_grad_value_(v, 0.02)),
    "rescaled": ({"clip": 0.02, "clipping": "rescale"}, rescaled),
    "of length one": ({"clip": 0.02, "clipping": "rescale", "normalise": True}, of_length_one),
}


@pytest.mark.parametrize("kind", OPTIMISERS)
@pytest.mark.parametrize("bound", BOUNDS)
def test_steps_are_those_of_torch_for_each_problem_alone(kind, bound):
    settings, apply = BOUNDS[bound]
    found, expected = ours(kind=kind, **settings), by_torch(kind, apply, None)
    for name in SHAPES:
        assert (expected[name] - draw(0)[name]).abs().max() > 1e-4
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_the_cosine_ends_where_torch_s_does_for_all_that_moves(floor):
    found = ours(cosine=True, cosine_floor=floor)
    expected = by_torch("adam", lambda variable: None, floor)
    for name in SHAPES:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
def test_problems_leave_with_their_state_and_others_begin_with_none(kind):
    settings = OptimiserSettings(steps=STEPS, learning_rate=RATE, kind=kind, cosine=True)
    whole, part, variables = Descent(settings, FACTORS), Descent(settings, FACTORS), draw(0)
    for step in range(2):
        steps = [step] * PROBLEMS
        part.moved(steps, variables, slopes(variables))
        variables = whole.moved(steps, variables, slopes(variables))
    # Two go on, and two begin behind them.
    rows, fresh = torch.tensor([2, 0]), Descent(settings, FACTORS)
    part.select(rows)
    part.join(2)
    again, new = slopes(variables), slopes(draw(1))
    found = part.moved(
        [2, 2, 0, 0],
        {name: torch.cat([value[rows], draw(1)[name][:2]]) for name, value in variables.items()},
        {name: torch.cat([value[rows], new[name][:2]]) for name, value in again.items()},
    )
    old = whole.moved([2] * PROBLEMS, variables, again)
    begun = fresh.moved([0] * PROBLEMS, draw(1), new)
    for name in SHAPES:
        expected = torch.cat([old[name][rows], begun[name][:2]])
        torch.testing.assert_close(found[name], expected, rtol=1e-12, atol=1e-14)


def test_a_gradient_of_nothing_stays_nothing():
    settings = OptimiserSettings(clip=0.1, clipping="rescale", normalise=True, kind="sgd")
    start = draw(0)
    nothing = {name: torch.zeros_like(value) for name, value in start.items()}
    moved = Descent(settings, FACTORS).moved([0] * PROBLEMS, start, nothing)
    assert all(torch.equal(moved[name], start[name]) for name in SHAPES)
    assert math.isfinite(sum(float(value.sum()) for value in moved.values()))
