"""How large the crops are that a classifier gets."""

from dataclasses import replace

import pytest
import torch

from whylens.guidance.objectives import Objective
from whylens.guidance.optimiser import optimise
from whylens.guidance.problems import Paste, Problems
from whylens.guidance.settings import GuidanceSettings


class Looked(Objective):
    """What it was shown; it wants nothing."""

    def __init__(self):
        self.seen = []

    def value_and_gradient(self, images):
        self.seen.append(images.clone())
        return torch.zeros(len(images)), torch.zeros_like(images)

    def select(self, rows):
        return self


@pytest.mark.parametrize(("power", "mean"), [(1.0, 0.71875), (0.3, 0.8702)])
def test_sides_go_by_a_power_of_a_uniform_number(sampler, power, mean):
    """Of a ramp from left to right, a crop's rise is its side."""
    settings = GuidanceSettings(
        chain={"steps": 1},
        optimiser={"steps": 1},
        views={"cutouts": 600, "smallest": 0.4375, "noise": 0.0, "power": power},
    )
    ramp = ((torch.arange(16.0) + 0.5) / 16).expand(1, 3, 16, 16)
    problems = Problems.from_prompts(sampler, ["a boat"], [0])
    problems = replace(problems, paste=Paste(ramp, torch.zeros(1, 1, 16, 16)))
    objective = Looked()
    list(optimise(sampler, problems, objective, settings))
    shown = torch.cat(objective.seen)
    # Places inside of a crop whose values no border cut.
    sides = (shown[:, 0, :, 11] - shown[:, 0, :, 4]).mean(1) * 16 / 7
    crops = sides[(sides - 1).abs() > 1e-4]
    assert len(crops) > 550
    assert 0.43 < crops.min() < crops.max() < 1
    assert float(crops.mean()) == pytest.approx(mean, abs=0.02)
