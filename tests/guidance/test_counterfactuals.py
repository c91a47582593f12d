from dataclasses import replace

import pytest
import torch

from whylens.diffusion.chain import chain_step, denoise, result
from whylens.diffusion.conditioning import Blend, condition
from whylens.diffusion.inversion import ddim_trajectory
from whylens.diffusion.schedules import schedule
from whylens.guidance.counterfactuals import counterfactual, counterfactual_problems
from whylens.guidance.edit_schedules import with_best_schedules
from whylens.guidance.masks import with_margin
from whylens.guidance.problems import Problems
from whylens.guidance.settings import GuidanceSettings
from whylens.guidance.solutions import solve

BEFORE = ["a photo of a boat on grass", "a photo of a moon"]
AFTER = ["a photo of a fish on grass", "a photo of a ring"]
TARGETS = torch.tensor([4, 3])
PLAIN = {"editing": {"mask": "none", "thresholds": []}}


@pytest.fixture
def images():
    # Smooth, as pictures are.
    coarse = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, size=16, mode="bilinear")


def settings_of(chain=None, optimiser=None, views=None, **groups):
    return GuidanceSettings(
        chain={"steps": 3, **(chain or {})},
        optimiser={"learning_rate": 0.05, **(optimiser or {})},
        views={"cutouts": 2, **(views or {})},
        **groups,
    )


def run(sampler, classifier, images, before=BEFORE, after=AFTER, targets=TARGETS, **groups):
    settings = settings_of(**groups)
    return counterfactual(sampler, images, before, after, targets, classifier, settings)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_the_same_prompt_and_no_optimisation_give_the_autoencoded_image(
    sampler, classifier, images, guidance_scale
):
    options = {"optimiser": {"steps": 0}, "chain": {"guidance_scale": guidance_scale}, **PLAIN}
    solutions = run(sampler, classifier, images, after=BEFORE, **options)
    expected = sampler.decode(sampler.encode(images))
    for solution, image in zip(solutions, expected, strict=True):
        torch.testing.assert_close(solution.image, image, rtol=0, atol=1e-4)


def test_another_prompt_alone_changes_the_image(sampler, classifier, images):
    solutions = run(sampler, classifier, images, optimiser={"steps": 0})
    for solution, image in zip(solutions, sampler.decode(sampler.encode(images)), strict=True):
        assert (solution.image - image).abs().max() > 1e-3


def test_the_target_becomes_more_probable(sampler, classifier, images):
    for target, solution in zip(
        TARGETS,
        run(sampler, classifier, images, optimiser={"steps": 10}, regularisers={"pixels": 0.5}),
        strict=True,
    ):
        p = classifier.probabilities(torch.stack([solution.start_image, solution.image]))
        assert 1 - p[1, target] < 0.7 * (1 - p[0, target])
        assert min(solution.loss_trajectory) < solution.loss_trajectory[0]


def test_the_loss_is_log_p_and_the_squared_distance_to_the_image(sampler, classifier, images):
    for row, solution in enumerate(
        run(sampler, classifier, images, optimiser={"steps": 2}, regularisers={"pixels": 30.0})
    ):
        p = classifier.probabilities(solution.image[None])[0, TARGETS[row]]
        distance = (solution.image - images[row]).square().mean()
        expected = float(-p.log() + 30 * distance)
        assert solution.loss_trajectory[solution.best_step] == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_a_stronger_wish_to_keep_the_image_keeps_it_nearer(sampler, classifier, images):
    distances = []
    for keep in (0.0, 300.0):
        solutions = run(
            sampler, classifier, images, optimiser={"steps": 6}, regularisers={"pixels": keep}
        )
        final = torch.stack([solution.image for solution in solutions])
        distances.append((final - images).square().mean((1, 2, 3)))
    assert (distances[1] < distances[0]).all()


@pytest.mark.slow
def test_each_image_gets_the_counterfactual_that_it_would_get_alone(
    sampler, smooth_classifier, images
):
    together = run(sampler, smooth_classifier, images, optimiser={"steps": 3})
    settings = GuidanceSettings(
        chain={"steps": 3}, optimiser={"learning_rate": 0.05, "steps": 3}, views={"cutouts": 2}
    )
    for row in range(2):
        (alone,) = counterfactual(
            sampler, images[[row]], BEFORE[row : row + 1], AFTER[row : row + 1],
            TARGETS[[row]], smooth_classifier, settings, seeds=[row],
        )  # fmt: skip
        torch.testing.assert_close(together[row].image, alone.image, rtol=0, atol=1e-4)
        assert together[row].best_step == alone.best_step


def test_outside_of_its_mask_an_image_stays_what_it_is(sampler, classifier, images):
    masks = torch.zeros(2, 1, 16, 16)
    masks[0, :, 2:8, 2:8] = masks[1, :, 9:14, 4:9] = 1
    settings = GuidanceSettings(
        chain={"steps": 3}, optimiser={"steps": 2}, views={"cutouts": 2}, editing={"mask": "given"}
    )
    solutions = counterfactual(
        sampler, images, BEFORE, AFTER, TARGETS, classifier, settings, masks=masks
    )
    for solution, image, mask in zip(solutions, images, masks, strict=True):
        change = (solution.image - image).abs()
        # Grown by a sixteenth and blurred by 3 x 10 px at 512 px: one and three here.
        far = torch.nn.functional.max_pool2d(mask, 2 * 5 + 1, stride=1, padding=5)[0] == 0
        assert far.any()
        assert change[:, far].max() == 0
        assert change[:, mask[0] > 0].max() > 0.01
        assert solution.mask.shape == (1, 16, 16)
    with pytest.raises(ValueError, match="masks are needed"):
        counterfactual(sampler, images, BEFORE, AFTER, TARGETS, classifier, settings)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_inside_of_its_mask_an_edit_is_led_by_its_own_prompt_alone(
    sampler, classifier, images, guidance_scale
):
    after = [AFTER[0], BEFORE[1]]
    solutions = counterfactual(
        sampler, images, BEFORE, after, TARGETS, classifier,
        GuidanceSettings(
            chain={"steps": 3, "guidance_scale": guidance_scale},
            optimiser={"steps": 0},
            editing={"mask": "given", "thresholds": [], "blends": [None]},
        ),
        masks=torch.ones(2, 1, 16, 16),
    )  # fmt: skip
    own = condition(sampler, BEFORE)
    noise = ddim_trajectory(sampler, sampler.encode(images), own, steps=3)[:, 0]
    latents = result(
        denoise(sampler, noise, condition(sampler, after), steps=3, guidance_scale=guidance_scale)
    )
    torch.testing.assert_close(solutions[0].image, sampler.decode(latents)[0], rtol=0, atol=1e-5)
    # Where the prompt is the image's own, the image comes back as ever.
    expected = sampler.decode(sampler.encode(images))
    torch.testing.assert_close(solutions[1].image, expected[1], rtol=0, atol=1e-4)


@pytest.mark.slow
def test_the_schedule_that_is_taken_is_the_best_of_all_for_each_image(sampler, classifier, images):
    masks = torch.zeros(2, 1, 16, 16)
    masks[:, :, 4:12, 4:12] = 1

    def start_loss(rows, threshold, blend):
        settings = GuidanceSettings(
            chain={"steps": 4},
            optimiser={"steps": 0},
            editing={"mask": "given", "thresholds": threshold, "blends": blend},
        )
        (solution,) = counterfactual(
            sampler, images[rows], [BEFORE[rows[0]]], [AFTER[rows[0]]], TARGETS[rows],
            classifier, settings, masks=masks[rows],
        )  # fmt: skip
        return solution.loss_trajectory[0], solution.attention_steps, solution.blend_start

    for row in ([0], [1]):
        alone = [
            start_loss(row, [threshold], [blend])
            for threshold in (0.25, 0.5, 1.0)
            for blend in (None, 0.5)
        ]
        together = start_loss(row, [0.25, 0.5, 1.0], [None, 0.5])
        assert together == pytest.approx(min(alone), abs=1e-5)
    assert {steps for _, steps, _ in alone} == {1, 2, 4}
    assert {blend for *_, blend in alone} == {2, 4}


def test_latents_outside_are_the_images_own_in_the_first_part_of_the_chain(sampler):
    """As prompt-to-prompt has it: before the steps i with i / T < 0.3, at the start too."""
    steps = 10
    conditioning = condition(sampler, AFTER)
    noise = sampler.initial_latents([0, 1])
    trajectory = torch.randn(2, steps + 1, *noise.shape[1:])
    mask = torch.zeros(2, 1, *noise.shape[2:])
    mask[:, :, 2:5, 2:5] = 1
    settings = GuidanceSettings(
        chain={"steps": steps},
        editing={"mask": "given", "thresholds": [], "blends": [0.3], "blended": "before"},
    )
    never = torch.full((2,), steps)
    problems = Problems(
        noise,
        replace(conditioning, blend=Blend(trajectory, mask, never, never)),
        torch.arange(2),
    )
    found = with_best_schedules(sampler, problems, None, settings)
    states = denoise(sampler, noise, found.conditioning, steps=steps, guidance_scale=3.0)
    with torch.no_grad():
        led = [state.latents for state in states]
    # The same by hand: what is before a step is blended, then the step is taken.
    latents, plain = noise, replace(conditioning, blend=None)
    embeddings = plain.at_each_step(steps)
    with torch.no_grad():
        for index, step in enumerate(schedule(sampler, steps)):
            if index / steps < 0.3:
                latents = mask * latents + (1 - mask) * trajectory[:, index]
            latents = chain_step(sampler, latents, step, embeddings[index], 3.0).latents
            if (index + 1) / steps >= 0.3:
                torch.testing.assert_close(led[index], latents)


def test_what_is_outside_may_be_held_by_regularisers_alone(sampler, classifier, images):
    masks = torch.zeros(2, 1, 16, 16)
    masks[:, :, 4:12, 4:12] = 1
    settings = settings_of(
        optimiser={"steps": 0},
        regularisers={"pixels": 250.0, "latents": 25.0},
        editing={"mask": "given", "thresholds": [], "outside": "held", "blends": [None]},
    )
    arguments = (sampler, images, BEFORE, AFTER, TARGETS, classifier, settings)
    problems, objective = counterfactual_problems(*arguments, masks=masks)
    assert problems.paste is None
    solutions = solve(sampler, problems, objective, settings)
    outside = 1 - with_margin(masks, settings.editing.margin)
    shown = torch.stack([solution.image for solution in solutions])
    p = classifier.probabilities(shown)[range(2), TARGETS]
    with torch.no_grad():
        end = result(
            denoise(sampler, problems.latents, problems.conditioning, steps=3, guidance_scale=3.0)
        )
    pixels = (outside * (shown - images).square()).mean((1, 2, 3))
    at_latents = torch.nn.functional.avg_pool2d(outside, 2)
    latents = (at_latents * (end - sampler.encode(images)).square()).mean((1, 2, 3))
    expected = -p.log() + 250 * pixels + 25 * latents
    assert latents.min() > 1e-5
    for solution, loss in zip(solutions, expected, strict=True):
        assert solution.loss_trajectory == pytest.approx([float(loss)], rel=1e-4)


@pytest.mark.slow
def test_schedules_are_tried_together_or_as_memory_allows(
    sampler, classifier, images, monkeypatch, caplog
):
    rows, most = [], [12]

    def chain(sampler, noise, *arguments, **options):
        if len(noise) > most[0]:
            raise torch.OutOfMemoryError("no memory")
        rows.append(len(noise))
        return denoise(sampler, noise, *arguments, **options)

    monkeypatch.setattr("whylens.guidance.edit_schedules.denoise", chain)

    def taken():
        rows.clear()
        solutions = run(
            sampler, classifier, images, chain={"steps": 4}, optimiser={"steps": 0},
            editing={
                "thresholds": [0.25, 0.5, 1.0], "mask": "attention", "blends": [None, 0.5],
            },
        )  # fmt: skip
        return [(s.attention_steps, s.blend_start, s.loss_trajectory[0]) for s in solutions]

    together = taken()
    assert rows == [12]
    most[0] = 4
    halved = taken()
    assert rows == [2, 4, 2, 4]
    assert "out of memory with 6 schedules at once; trying 3" in caplog.text
    for one, other in zip(together, halved, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    most[0] = 1
    with pytest.raises(torch.OutOfMemoryError, match="no memory"):
        taken()


def test_every_image_needs_its_prompts(sampler, classifier, images):
    with pytest.raises(ValueError, match=r"prompts_after.*2 images"):
        run(sampler, classifier, images, after=AFTER[:1], optimiser={"steps": 0})
    with pytest.raises(ValueError, match=r"prompts_before.*2 images"):
        run(sampler, classifier, images, before=BEFORE[:1], optimiser={"steps": 0})
