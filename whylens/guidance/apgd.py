"""Auto-PGD in an L2 ball around an image: no step size to choose, a batch is B problems.

Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks" (ICML 2020), algorithm 1, for a loss to be lowered. Each problem has its own
step size, best point and history, and restarts from its best point where it stalls.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from whylens.guidance.objectives import Objective

# alpha and rho of the paper.
MOMENTUM = 0.75
ENOUGH_SUCCESSES = 0.75


@dataclass(frozen=True)
class Optimum:
    """The best points met, images [B, 3, H, W], their values [B], and the last step sizes [B]."""

    images: Tensor
    values: Tensor
    step_sizes: Tensor


def apgd(objective: Objective, start: Tensor, radius: float, steps: int) -> Iterator[Optimum]:
    """Lower an objective within `radius` (L2 norm of a whole image's change) and within [0, 1].

    What is found where step sizes are looked at again (`checkpoints`), and at the end.

    Parameters
    ----------
    objective
        One value an image; lower is better.
    start
        [B, 3, H, W] in [0, 1], the centre of the balls and the first point.
    radius
        > 0.
    steps
        Gradients taken, >= 1.
    """
    centre = start.detach()
    value, gradient = objective.value_and_gradient(centre)
    best, best_value, best_gradient = centre, value, gradient
    size = torch.full_like(value, 2 * radius)
    here, before = centre, centre
    watched = checkpoints(steps)
    successes = torch.zeros_like(value)
    # What the last checkpoint saw: its number, step sizes, best values.
    last, last_size, last_best = 0, size, best_value
    for step in range(1, steps + 1):
        target = project(here - _shaped(size) * _unit(gradient), centre, radius)
        if step == 1:
            moved = target
        else:
            drift = MOMENTUM * (target - here) + (1 - MOMENTUM) * (here - before)
            moved = project(here + drift, centre, radius)
        before, here = here, moved
        new_value, gradient = objective.value_and_gradient(here)
        successes += new_value < value
        value = new_value
        better = value < best_value
        best_value = torch.where(better, value, best_value)
        best = torch.where(_shaped(better), here, best)
        best_gradient = torch.where(_shaped(better), gradient, best_gradient)
        if step in watched:
            few = successes < ENOUGH_SUCCESSES * (step - last)
            stuck = (size == last_size) & (best_value == last_best)
            last, last_size, last_best = step, size, best_value
            halve = few | stuck
            size = torch.where(halve, size / 2, size)
            here = torch.where(_shaped(halve), best, here)
            gradient = torch.where(_shaped(halve), best_gradient, gradient)
            value = torch.where(halve, best_value, value)
            successes = torch.zeros_like(successes)
            yield Optimum(best, best_value, size)
    yield Optimum(best, best_value, size)


def checkpoints(steps: int) -> list[int]:
    """Steps at which the step size may be halved: ceil(p_j N), p_1 = 0.22, then ever closer."""
    found, previous, share = [], 0.0, 0.22
    while share <= 1:
        found.append(math.ceil(share * steps - 1e-9))
        previous, share = share, share + max(share - previous - 0.03, 0.06)
    return sorted(set(found))


def project(images: Tensor, centre: Tensor, radius: float) -> Tensor:
    """The nearest points to images [B, 3, H, W] in the ball around `centre` and in [0, 1].

    By the conditions of optimality that is centre + clip(s * change) to the box, with the largest
    s <= 1 whose norm fits: s grows to it as long as entries reach the box (a few rounds). Scaling
    first and clipping after, as attacks often do, would lose length in every step.
    """
    change = images - centre
    room = torch.where(change > 0, 1 - centre, centre)  # as far as each entry may go
    size = change.abs()
    norm = size.minimum(room).flatten(1).norm(dim=1)
    scale = torch.ones_like(norm)
    over = norm > radius
    if bool(over.any()):
        scale[over] = radius / size.flatten(1).norm(dim=1)[over]
        while True:
            full = _shaped(scale) * size >= room
            held = torch.where(full, room, 0).square().flatten(1).sum(1)
            free = torch.where(full, 0, size).square().flatten(1).sum(1)
            grown = ((radius**2 - held).clamp_min(0) / free.clamp_min(1e-30)).sqrt()
            grown = torch.where(over & (grown > scale * (1 + 1e-6)), grown, scale)
            if torch.equal(grown, scale):
                break
            scale = grown
    return centre + change.sign() * (_shaped(scale) * size).minimum(room)


def _unit(gradients: Tensor) -> Tensor:
    """Gradients [B, 3, H, W] of length one; a gradient of zero stays."""
    return gradients / _shaped(gradients.flatten(1).norm(dim=1).clamp_min(1e-30))


def _shaped(values: Tensor) -> Tensor:
    """[B] -> [B, 1, 1, 1]."""
    return values.view(-1, 1, 1, 1)
