"""How many problems are held at once follows from memory, is remembered, and changes no result."""

import runpy
from pathlib import Path

import pytest
import torch

from whylens.guidance import memory as module
from whylens.guidance import optimiser
from whylens.guidance.memory import Costs, Memory, inverted
from whylens.guidance.objectives import PixelDistance
from whylens.guidance.optimiser import optimise
from whylens.guidance.problems import Problems
from whylens.guidance.settings import GuidanceSettings
from whylens.guidance.solutions import Solutions, followed

PeakMemory = runpy.run_path(str(Path(__file__).parents[1] / "diffusion" / "peak_memory.py"))[
    "PeakMemory"
]
PROMPTS = [f"a photo of a {word}" for word in ("boat", "moon", "fish", "star", "ring")]


def settings_of(segment=None, predictions=1, **chain):
    return GuidanceSettings(
        chain={"steps": 8, "segment": segment, **chain},
        optimiser={"steps": 1},
        views={"cutouts": 0, "predictions": predictions},
    )


def known(sampler, costs=(10, 30, 5), free=1000):
    """A memory of so many free bytes, for chains whose costs are known."""
    memory = Memory(sampler)
    memory._costs = {True: Costs(*costs), False: Costs(*costs)}
    memory.free = lambda: free
    return memory


@pytest.mark.parametrize(
    ("problems", "free", "segment", "expected"),
    [
        # 30 bytes for each image, 10 for each step of a segment, 5 beside.
        (4, 1000, None, (4, None, 4 * (6 * 10 + 30) + 5)),
        (4, 1000, "auto", (4, 8, 4 * (8 * 10 + 30) + 5)),
        (4, 1000, 2, (4, 2, 4 * (2 * 10 + 30) + 5)),
        # Of 8 problems 3 would fit: in three parts of nearly one size.
        (8, 300, None, (3, None, 3 * 90 + 5)),
        # Seven would fit: in two parts.
        (8, 300, 1, (4, 1, 4 * 40 + 5)),
        # Two parts of four have room for more than six steps each.
        (8, 400, "auto", (4, 6, 4 * 90 + 5)),
        (8, 450, "auto", (4, 8, 4 * 110 + 5)),
        # One alone, in shorter segments than twice the root of the steps.
        (8, 80, "auto", (1, 4, 75)),
        (8, 10, "auto", (1, 1, 45)),
    ],
)
def test_as_many_problems_are_held_as_fit(sampler, problems, free, segment, expected):
    plan = known(sampler, free=free).plan(problems, settings_of(segment))
    assert (plan.problems, plan.segment, plan.needed) == expected
    assert (plan.of, plan.free) == (problems, free)


def test_of_large_images_one_decoder_counts_whatever_the_batch(sampler, monkeypatch):
    monkeypatch.setattr(type(sampler), "decoded_at_once", 1)
    plan = known(sampler, free=300).plan(8, settings_of(2, predictions=2))
    assert (plan.problems, plan.needed) == (8, 8 * 2 * 10 + 30 + 5)
    plan = known(sampler, free=100).plan(8, settings_of("auto", predictions=2))
    assert (plan.problems, plan.segment, plan.needed) == (1, 6, 60 + 30 + 5)


def test_steps_without_gradients_count_and_more_predictions_do_not(sampler):
    memory = known(sampler)
    # Three differentiated steps, all of them held by a segment of 4.
    plan = memory.plan(1, settings_of(gradient_steps=3, predictions=2))
    assert plan.needed == 3 * 10 + 30 + 5
    assert memory.plan(1, settings_of("auto", gradient_steps=3)).segment == 3


def test_what_is_planned_is_about_what_is_held(sampler):
    """Against all tensors that live at once in an optimisation."""
    problems = Problems.from_prompts(sampler, PROMPTS, range(5))
    objective = PixelDistance(torch.full((5, 3, 16, 16), 0.3))
    for segment in (1, 8):
        settings = settings_of(segment)
        plan = Memory(sampler).plan(5, settings)
        with PeakMemory() as peak:
            for _ in optimise(sampler, problems, objective, settings):
                pass
        # Beside what is held there is what a call makes and lets go.
        assert 0.5 < plan.needed / peak.peak < 1.2, segment


def test_a_batch_in_parts_comes_to_the_same(sampler, monkeypatch):
    problems = Problems.from_prompts(sampler, PROMPTS, range(5))
    objective = PixelDistance(torch.full((5, 3, 16, 16), 0.3))
    settings, taken = settings_of("auto"), []

    def watched(sampler, latents, *arguments, segment, **options):
        taken.append((len(latents), segment))
        return denoise(sampler, latents, *arguments, segment=segment, **options)

    denoise = optimiser.denoise
    monkeypatch.setattr(optimiser, "denoise", watched)

    def solved(memory):
        taken.clear()
        states = optimise(sampler, problems, objective, settings, memory)
        return followed(Solutions(problems), states)

    whole = solved(known(sampler))
    assert set(taken) == {(5, 8)}
    parts = solved(known(sampler, free=250))
    assert set(taken) == {(1, 8), (2, 8)}
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one.image, other.image, rtol=0, atol=1e-5)
        assert one.loss_trajectory == pytest.approx(other.loss_trajectory, abs=1e-6)


def test_what_did_not_fit_is_not_tried_again(sampler, monkeypatch):
    problems = Problems.from_prompts(sampler, PROMPTS, range(5))
    objective = PixelDistance(torch.full((5, 3, 16, 16), 0.3))
    memory, taken = known(sampler), []

    def small(sampler, latents, *arguments, **options):
        taken.append(len(latents))
        if len(latents) > 3:
            raise torch.OutOfMemoryError("no memory")
        return denoise(sampler, latents, *arguments, **options)

    denoise = optimiser.denoise
    monkeypatch.setattr(optimiser, "denoise", small)
    for _ in optimise(sampler, problems, objective, settings_of(), memory):
        pass
    assert taken[0] == 5
    taken.clear()
    for _ in optimise(sampler, problems, objective, settings_of(), memory):
        pass
    assert max(taken) <= 3
    # Nor a segment that did not fit with one problem.
    memory.most["segment"] = 1
    assert memory.plan(5, settings_of()).segment == 1
    assert memory.plan(5, settings_of("auto")).segment == 1


def test_inversions_are_made_in_parts_where_memory_is_small(sampler, monkeypatch):
    images = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    settings = GuidanceSettings(
        chain={"steps": 2, "guidance_scale": 3.0}, editing={"encoder_steps": 1}
    )
    whole, taken = inverted(sampler, images, PROMPTS, settings), []

    def small(sampler, images, *rest, **how):
        taken.append(len(images))
        if len(images) == 5:
            raise torch.OutOfMemoryError("no memory")
        return original(sampler, images, *rest, **how)

    original = module.invert_images
    monkeypatch.setattr(module, "invert_images", small)
    memory = known(sampler)
    parts = inverted(sampler, images, PROMPTS, settings, memory)
    assert taken == [5, 3, 2]
    torch.testing.assert_close(parts.noise, whole.noise, rtol=0, atol=1e-4)
    torch.testing.assert_close(parts.psnr, whole.psnr, rtol=0, atol=0.01)
    taken.clear()
    inverted(sampler, images, PROMPTS, settings, memory)
    assert taken == [3, 2]
    # What is known not to fit is not tried at all.
    taken.clear()
    inverted(sampler, images, PROMPTS, settings, known(sampler, (20, 20, 5), free=45))
    assert taken == [2, 2, 1]
