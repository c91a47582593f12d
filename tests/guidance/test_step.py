"""What one optimisation step costs: what the host asks of the device, and what is alive at once."""

import weakref
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import whylens.diffusion.sampler as sampler_module
from whylens.diffusion import load_sampler
from whylens.guidance.looking import look
from whylens.guidance.objectives import PixelDistance, TargetClass
from whylens.guidance.optimiser import optimise
from whylens.guidance.problems import Paste, Problems
from whylens.guidance.settings import GuidanceSettings, ViewSettings
from whylens.guidance.solutions import solve
from whylens.guidance.views import ViewGenerator

# What makes the host wait for a GPU: a number read, a shape that depends on values.
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal")
PROMPTS = ("a photo of a boat", "a photo of a moon on grass", "a photo of a fish", "a star")
TARGETS = torch.tensor([1, 6, 4, 9])


def problems_of(sampler):
    return Problems.from_prompts(sampler, PROMPTS, range(20, 24))


class Waits(TorchDispatchMode):
    """Counts operations by whose result the host would wait."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in WAITING:
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def test_a_step_makes_the_host_wait_once_at_most(sampler, classifier):
    settings = GuidanceSettings(
        chain={"steps": 3},
        optimiser={"steps": 3, "stop_below": -1.0},
        views={"cutouts": 2, "predictions": 2},
        regularisers={"latents": 0.1, "deltas": 0.1},
    )
    objective = TargetClass(classifier, TARGETS)
    objective = objective + 2.0 * PixelDistance(torch.full((4, 3, 16, 16), 0.3))
    found = []
    with Waits() as waits:
        for state in optimise(sampler, problems_of(sampler), objective, settings):
            assert len(state.rows) == 4
            found.append(list(waits.seen))
            waits.seen.clear()
    assert max(len(seen) for seen in found) <= 1, found


class Alive:
    """Tensors that graphs made under it keep for backward."""

    def __init__(self):
        self.kept = weakref.WeakSet()

    class Kept:
        def __init__(self, tensor):
            self.tensor = tensor

    def pack(self, tensor):
        kept = self.Kept(tensor)
        self.kept.add(kept)
        return kept


@pytest.mark.parametrize("at_once", [1, 3])
def test_no_more_decoder_graphs_are_alive_than_asked_for(
    double_sampler, double_classifiers, monkeypatch, at_once
):
    """Whatever the batch and the number of predictions; the results are the whole batch's."""
    sampler, classifier = double_sampler, double_classifiers[0]
    settings = GuidanceSettings(
        chain={"steps": 3}, optimiser={"steps": 2}, views={"cutouts": 2, "predictions": 3}
    )
    objective = TargetClass(classifier, TARGETS)
    expected = solve(sampler, problems_of(sampler), objective, settings)
    alive, decoded, decode = Alive(), [], sampler.decode

    def watched(latents):
        assert len(alive.kept) == 0
        if not latents.requires_grad:
            return decode(latents)
        decoded.append(len(latents))
        with torch.autograd.graph.saved_tensors_hooks(alive.pack, lambda kept: kept.tensor):
            images = decode(latents)
        assert len(alive.kept) > 0
        return images

    monkeypatch.setattr(sampler, "decode", watched)
    monkeypatch.setattr(type(sampler), "decoded_at_once", at_once)
    found = solve(sampler, problems_of(sampler), objective, settings)
    # Two steps of three predictions.
    assert decoded == {1: [1] * 24, 3: [3, 1] * 6}[at_once]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.image, other.image, rtol=0, atol=1e-8)
        assert one.loss_trajectory == pytest.approx(other.loss_trajectory, abs=1e-7)


@pytest.mark.parametrize(("cutouts", "at_once"), [(0, 8), (2, 1)])
def test_the_pull_at_the_latents_is_the_finite_difference(
    double_sampler, double_classifiers, monkeypatch, cutouts, at_once
):
    monkeypatch.setattr(type(double_sampler), "decoded_at_once", at_once)
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(4, 1, 16, 16, generator=generator, dtype=torch.float64)
    paste = Paste(torch.full((4, 3, 16, 16), 0.4).double(), masks)
    problems = replace(problems_of(double_sampler), paste=paste)
    objective = TargetClass(double_classifiers[0], TARGETS)
    views = None
    if cutouts:
        drawn = ViewGenerator(range(4), ViewSettings(cutouts=cutouts, noise=0.01))
        views = drawn.draw(range(4), torch.device("cpu"))
    # Where decoding clamps, gradients are not the difference's.
    monkeypatch.setattr(sampler_module, "clamped", lambda values: values)
    latents = problems.latents
    way, h = torch.randn(latents.shape, generator=generator, dtype=torch.float64), 1e-7

    def at(latents):
        images = problems.shown(double_sampler.decode(latents))
        if views is None:
            return objective.value_only(images)
        seen = views.of(images, 64).flatten(0, 1)
        rows = torch.arange(4).repeat(cutouts)
        return objective.select(rows).value_only(seen).view(cutouts, 4).mean(0)

    pulls = look(double_sampler, problems, objective, latents, views).pulls
    slopes = (pulls * way).flatten(1).sum(1)
    expected = (at(latents + h * way) - at(latents - h * way)) / (2 * h)
    assert slopes.abs().min() > 1e-5
    torch.testing.assert_close(slopes, expected, rtol=1e-3, atol=1e-6)


def test_a_large_image_is_decoded_block_by_block_with_the_same_gradient(folder, monkeypatch):
    latents = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) / 3

    def gradient(sampler):
        alive, leaf = Alive(), latents.clone().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(alive.pack, lambda kept: kept.tensor):
            images = sampler.decode(leaf)
        kept = sum(one.tensor.numel() for one in alive.kept)
        return torch.autograd.grad(images.square().sum(), leaf)[0], kept

    expected, whole = gradient(load_sampler(str(folder)))
    monkeypatch.setattr(sampler_module, "LARGEST_DECODED", 8)
    found, kept = gradient(load_sampler(str(folder)))
    torch.testing.assert_close(found, expected)
    assert kept < whole / 3
