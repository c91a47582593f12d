"""Guidance through chains of one and two steps: the same objectives, images that can be changed."""

import runpy
from pathlib import Path

import pytest
import torch

from whylens.diffusion import load_sampler, sample
from whylens.errors import UsageError
from whylens.guidance.counterfactuals import counterfactual
from whylens.guidance.objectives import TargetClass
from whylens.guidance.problems import Problems
from whylens.guidance.settings import GuidanceSettings
from whylens.guidance.solutions import solve
from whylens.jobs.spec import read_yaml

BEFORE = ["a photo of a boat on grass", "a photo of a moon"]
AFTER = ["a photo of a fish on grass", "a photo of a ring"]
TARGETS = torch.tensor([4, 3])
FAMILIES = {"lcm": 8.0, "turbo": 0.0}


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    tiny = runpy.run_path(str(Path(__file__).parents[1] / "diffusion" / "tiny_pipeline.py"))
    return {
        family: load_sampler(str(tiny["save_pipeline"](tmp_path_factory.mktemp(family), family)))
        for family in FAMILIES
    }


def settings_of(family, steps, optimiser, **groups):
    return GuidanceSettings(
        chain={"steps": steps, "guidance_scale": FAMILIES[family]},
        optimiser={"learning_rate": 0.05, **optimiser},
        views={"cutouts": 2},
        **groups,
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("steps", [1, 2])
def test_a_target_becomes_more_probable(few, smooth_classifier, family, steps):
    sampler, settings = few[family], settings_of(family, steps, {"steps": 4})
    objective = TargetClass(smooth_classifier, TARGETS)
    problems = Problems.from_prompts(sampler, BEFORE, [1, 2])
    together = solve(sampler, problems, objective, settings)
    options = {"steps": steps, "guidance_scale": FAMILIES[family]}
    for row, solution in enumerate(together):
        assert min(solution.loss_trajectory) < solution.loss_trajectory[0] - 0.05
        # It starts at the plain image of its prompt and seed, whatever noise the chain takes on.
        plain = sample(sampler, [BEFORE[row]], [row + 1], **options)
        torch.testing.assert_close(solution.start_image, plain[0].clone(), rtol=0, atol=1e-5)
    rows = torch.tensor([1])
    (alone,) = solve(sampler, problems.select(rows), objective.select(rows), settings)
    torch.testing.assert_close(together[1].image, alone.image, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("steps", [1, 2])
def test_a_counterfactual_changes_its_mask_alone(few, smooth_classifier, family, steps):
    coarse = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.interpolate(coarse, size=16, mode="bilinear")
    masks = torch.zeros(2, 1, 16, 16)
    masks[..., 5:11, 5:11] = 1
    name = "lcm" if family == "lcm" else "sd-turbo"
    spec = read_yaml(str(Path(__file__).parents[2] / "docs" / f"{name}.yaml"))
    editing = spec["counterfactuals"]["guidance"]["editing"] | {"mask": "given"}
    settings = settings_of(
        family, steps, {"steps": 4}, regularisers={"pixels": 0.5}, editing=editing
    )
    for image, solution in zip(
        images,
        counterfactual(
            few[family], images, BEFORE, AFTER, TARGETS, smooth_classifier, settings, masks=masks
        ),
        strict=True,
    ):
        outside = (solution.mask == 0).expand_as(image)
        assert outside.any()
        torch.testing.assert_close(solution.image[outside], image[outside], rtol=0, atol=0)
        assert (solution.image - image).abs().max() > 0.01
        assert min(solution.loss_trajectory) < solution.loss_trajectory[0]


def test_the_null_text_alone_can_t_be_optimised_where_it_has_no_effect(few, smooth_classifier):
    settings = settings_of("lcm", 1, {"steps": 2, "latents_factor": 0, "text_factor": 0})
    problems = Problems.from_prompts(few["lcm"], BEFORE, [1, 2])
    objective = TargetClass(smooth_classifier, TARGETS)
    with pytest.raises(UsageError, match="nothing is left to optimise: the null text"):
        solve(few["lcm"], problems, objective, settings)
