"""Guidance through a rectified flow: images from noise, and real ones that are changed."""

import runpy
from pathlib import Path

import pytest
import torch

from whylens.diffusion import load_sampler
from whylens.errors import UsageError
from whylens.guidance.baselines import DvceSettings, LdceSettings
from whylens.guidance.baselines.dvce import diffusion_counterfactual
from whylens.guidance.baselines.ldce import latent_counterfactual
from whylens.guidance.counterfactuals import counterfactual
from whylens.guidance.settings import GuidanceSettings
from whylens.jobs.spec import read_yaml

SPEC = Path(__file__).parents[2] / "docs" / "stable-diffusion-3.yaml"
BEFORE = ["a photo of a boat on grass", "a photo of a moon"]
AFTER = ["a photo of a fish on grass", "a photo of a ring"]
TARGETS = torch.tensor([4, 3])


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    tiny = runpy.run_path(str(Path(__file__).parents[1] / "diffusion" / "tiny_pipeline.py"))
    return load_sampler(str(tiny["save_pipeline"](tmp_path_factory.mktemp("flow"), "flow_clip")))


def settings_of(**editing):
    return GuidanceSettings(
        chain={"steps": 2, "guidance_scale": 3.0},
        optimiser={"steps": 3, "learning_rate": 0.05},
        views={"cutouts": 2},
        regularisers={"pixels": 0.5},
        editing=editing,
    )


def smooth_images():
    coarse = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, size=16, mode="bilinear")


@pytest.mark.parametrize("mask", ["given", "none"])
def test_a_counterfactual_goes_towards_its_target(flow, smooth_classifier, mask):
    editing = read_yaml(str(SPEC))["counterfactuals"]["guidance"]["editing"]
    images, masks = smooth_images(), torch.zeros(2, 1, 16, 16)
    masks[..., 5:11, 5:11] = 1
    solutions = counterfactual(
        flow, images, BEFORE, AFTER, TARGETS, smooth_classifier,
        settings_of(**(editing | {"mask": mask})), masks=masks if mask == "given" else None,
    )  # fmt: skip
    for image, solution in zip(images, solutions, strict=True):
        assert solution.failed is None
        assert min(solution.loss_trajectory) < solution.loss_trajectory[0]
        assert (solution.image - image).abs().max() > 0.01
        if mask == "given":
            outside = (solution.mask == 0).expand_as(image)
            assert outside.any()
            torch.testing.assert_close(solution.image[outside], image[outside], rtol=0, atol=0)


@pytest.mark.parametrize("editing", [{}, {"mask": "none"}, {"thresholds": []}])
def test_what_needs_cross_attention_is_refused(flow, smooth_classifier, editing):
    with pytest.raises(UsageError, match=r"mask = none or given.*thresholds = \[\]"):
        counterfactual(
            flow, smooth_images(), BEFORE, AFTER, TARGETS, smooth_classifier, settings_of(**editing)
        )


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (latent_counterfactual, LdceSettings(steps=4, start=0.5)),
        (diffusion_counterfactual, DvceSettings(steps=4, start=0.5)),
    ],
)
def test_earlier_methods_go_along_a_flow(flow, smooth_classifier, method, settings):
    images = smooth_images()
    first, *_, last = method(flow, images, BEFORE, AFTER, TARGETS, smooth_classifier, settings)
    torch.testing.assert_close(first.images, images)
    assert last.images.isfinite().all()
    assert (last.images - images).abs().max() > 0.01


def test_ldce_needs_something_of_the_image_to_begin_with(flow, smooth_classifier):
    settings = LdceSettings(steps=4, start=1.0)
    with pytest.raises(UsageError, match=r"at noise alone.*lower baseline\.ldce\.start"):
        next(
            latent_counterfactual(
                flow, smooth_images(), BEFORE, AFTER, TARGETS, smooth_classifier, settings
            )
        )
