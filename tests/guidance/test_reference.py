"""The papers' loop, that whylens is measured against, does what whylens does."""

import pytest
import torch
from torch.nn import functional as F

from whylens.errors import UsageError
from whylens.guidance import GuidanceSettings, Problems, TargetClass, solve
from whylens.guidance.baselines.reference import cutouts, reference_loop
from whylens.guidance.optimiser import optimise
from whylens.guidance.views import ViewGenerator
from whylens.kernels.cutouts import reference as area_pooled

PROMPT, TARGET, SEED = "a photo of a fish", 3, 5


def settings(**views):
    return GuidanceSettings.model_validate(
        {
            "chain": {"steps": 4, "guidance_scale": 3.0},
            "optimiser": {"steps": 3, "learning_rate": 0.02, "relative_epsilon": 0.0},
            "views": {"predictions": 1, "cutouts": 0, **views},
        }
    )


def views(image, size, **asked):
    drawn = ViewGenerator([0], settings(noise=0.0, **asked).views).draw([0], image.device)
    return cutouts(image, size, drawn)


def views_of_whylens(image, size, drawn):
    """Its area pooling and its noise, in plain PyTorch."""
    boxes = drawn.boxes.transpose(0, 1) * image.shape[-1]
    return area_pooled(image, boxes, drawn.keys, size=size, noise=drawn.noise)[:, 0]


@pytest.mark.parametrize("asked", [{}, {"cutouts": 3, "predictions": 2, "noise": 0.05}])
def test_it_goes_where_whylens_does(double_sampler, double_classifiers, asked):
    """Step by step, with plain Adam, without views and with the same ones."""
    classifier, asked = double_classifiers[0], settings(**asked)
    look = views_of_whylens if asked.views.cutouts else cutouts
    run = reference_loop(double_sampler, classifier, PROMPT, TARGET, SEED, asked, look)
    problems = Problems.from_prompts(double_sampler, [PROMPT], [SEED])
    objective = TargetClass(classifier, torch.tensor([TARGET]))
    (ours,) = solve(double_sampler, problems, objective, asked)
    assert len(run.seconds) == 3
    assert run.losses == pytest.approx(ours.loss_trajectory, rel=1e-6)
    assert run.losses[0] > run.losses[-1]
    torch.testing.assert_close(run.image[0], ours.image)


def test_its_first_gradient_is_that_of_whylens(double_sampler, double_classifiers, monkeypatch):
    """Of latents and deltas: seen by an Adam that stops at them."""
    seen = {}

    class StopHereError(Exception):
        pass

    def stop(self):
        seen["loop"] = [group["params"][0].grad.clone() for group in self.param_groups]
        raise StopHereError

    monkeypatch.setattr(torch.optim.Adam, "step", stop)
    classifier, asked = double_classifiers[0], settings(predictions=3)
    with pytest.raises(StopHereError):
        reference_loop(double_sampler, classifier, PROMPT, TARGET, SEED, asked)

    def stop_ours(self, slopes):
        seen["ours"] = {name: slope.clone() for name, slope in slopes.items()}
        raise StopHereError

    monkeypatch.setattr("whylens.diffusion.adam.Adam.directions", stop_ours)
    problems = Problems.from_prompts(double_sampler, [PROMPT], [SEED])
    objective = TargetClass(classifier, torch.tensor([TARGET]))
    with pytest.raises(StopHereError):
        list(optimise(double_sampler, problems, objective, asked))
    latents, text, null = seen["loop"]
    assert torch.allclose(latents, seen["ours"]["latents"], rtol=1e-5, atol=1e-9)
    assert torch.allclose(text[:, 0], seen["ours"]["text_delta"][0], rtol=1e-5, atol=1e-9)
    assert torch.allclose(null[:, 0], seen["ours"]["null_delta"][0], rtol=1e-5, atol=1e-9)


def test_cutouts_are_squares_of_the_image_pooled():
    image = torch.arange(32.0).expand(32, 32)[None, None].repeat(1, 3, 1, 1)
    seen = views(image, 8, cutouts=50, smallest=0.5)
    assert seen.shape == (50, 3, 8, 8)
    # Columns rise by a side of 16 to 32 over 8 places, and stay inside of the image.
    rise = (seen[..., -1] - seen[..., 0]).mean((1, 2)) * 8 / 7
    assert 15 <= rise.min() < rise.max() <= 33
    assert rise.std() > 2
    assert 0 <= seen.min() < seen.max() <= 31
    assert views(image, 8, cutouts=0) is image
    pooled = F.avg_pool2d(image, 4)
    assert torch.equal(views(image, 8, cutouts=1, smallest=1.0), pooled)


def test_its_squares_lie_where_those_of_whylens_do():
    # Rounded to whole pixels: an image that rises by 1 / 63 a pixel differs by less than one.
    image = torch.linspace(0, 1, 64).expand(64, 64)[None, None].repeat(1, 3, 1, 1)
    drawn = ViewGenerator([0], settings(cutouts=8, noise=0.0).views).draw([0], image.device)
    seen, ours = cutouts(image, 8, drawn), drawn.of(image, 8)[:, 0]
    assert (seen - ours).abs().max() < 1 / 64


def test_a_target_that_is_not_there_is_refused(sampler, classifier):
    with pytest.raises(UsageError, match="99"):
        reference_loop(sampler, classifier, PROMPT, 99, SEED, settings())
