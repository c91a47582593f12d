import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

import whylens.guidance.optimiser as module
from whylens.diffusion import condition, denoise, result, sample
from whylens.diffusion.chain import last_predictions
from whylens.guidance.memory import Memory
from whylens.guidance.objectives import Objective, PixelDistance, TargetClass
from whylens.guidance.optimiser import optimise
from whylens.guidance.problems import Problems
from whylens.guidance.settings import GuidanceSettings
from whylens.guidance.solutions import Solutions, followed, solve

PROMPTS = (
    "a photo of a boat", "a photo of a moon on grass", "a photo of a fish", "a star",
    "a photo of a ring", "a photo of a heart on sand", "a house", "a photo of a cross",
)  # fmt: skip
TARGETS = torch.tensor([1, 6, 4, 9, 8, 4, 5, 2])
QUICK = GuidanceSettings(chain={"steps": 2}, optimiser={"steps": 4}, views={"cutouts": 0})


def problems_of(sampler, count=8):
    """The first problems, seeds from 20 on."""
    return Problems.from_prompts(sampler, PROMPTS[:count], range(20, 20 + count))


def adjusted(settings, group, **values):
    """The settings with other values in a group."""
    return settings.model_copy(update={group: getattr(settings, group).model_copy(update=values)})


def assert_same(found, expected, tolerance=1e-4):
    """Two solutions of one problem agree in image, losses and end."""
    torch.testing.assert_close(found.image, expected.image, rtol=0, atol=tolerance)
    torch.testing.assert_close(found.start_image, expected.start_image, rtol=0, atol=tolerance)
    assert found.loss_trajectory == pytest.approx(expected.loss_trajectory, abs=10 * tolerance)
    assert (found.best_step, found.failed) == (expected.best_step, expected.failed)


def alone(sampler, problems, objective, settings):
    """The solutions of problems solved one by one."""
    each = torch.arange(len(problems)).split(1)
    return [
        solve(sampler, problems.select(row), objective.select(row), settings)[0] for row in each
    ]


class Scripted(Objective):
    """Values as scripted, [steps, B], whatever the image; a gradient that moves it; keeps a record
    of the problems that were asked for at each step, and of their images."""

    def __init__(self, values, rows=None, record=None):
        self.values = values
        self.rows = torch.arange(values.shape[1]) if rows is None else rows
        self.record = [] if record is None else record

    def value_and_gradient(self, images):
        values = self.values[len(self.record), self.rows]
        self.record.append((self.rows.tolist(), images.clone()))
        return values, images - 0.3

    def select(self, rows):
        return Scripted(self.values, self.rows[rows], self.record)


@pytest.fixture
def sizes(monkeypatch):
    """How many problems go through the chain together, pass by pass."""
    seen = []

    def watched(sampler, latents, *arguments, **options):
        seen.append(len(latents))
        return denoise(sampler, latents, *arguments, **options)

    monkeypatch.setattr(module, "denoise", watched)
    return seen


def compare_batch_with_single_runs(sampler, classifier, tolerance, **groups):
    groups["chain"] = {"steps": 3, **groups.get("chain", {})}
    groups["optimiser"] = {"steps": 3, "learning_rate": 0.05, **groups.get("optimiser", {})}
    settings = GuidanceSettings(**groups)
    objective = TargetClass(classifier, TARGETS)
    problems = problems_of(sampler)
    together = solve(sampler, problems, objective, settings)
    assert len(together) == 8
    for found, expected in zip(
        together, alone(sampler, problems, objective, settings), strict=True
    ):
        assert_same(found, expected, tolerance)
        assert abs(found.loss_trajectory[-1] - found.loss_trajectory[0]) > 1e-3
    # Problems differ, so mixing them up would show.
    assert (together[0].image - together[1].image).abs().max() > 0.05


@pytest.mark.slow
def test_a_batch_of_eight_gives_what_eight_single_runs_give(sampler, smooth_classifier):
    compare_batch_with_single_runs(sampler, smooth_classifier, 1e-4, views={"cutouts": 2})


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {
            "views": {"cutouts": 2, "predictions": 2},
            "optimiser": {"cosine": True, "clip": 1e-3},
        },
        {"views": {"cutouts": 0}, "chain": {"guidance_scale": 1.0}},
    ],
    ids=["last predictions", "no guidance"],
)
def test_in_double_precision_a_batch_equals_single_runs(
    double_sampler, double_classifiers, options
):
    compare_batch_with_single_runs(double_sampler, double_classifiers[0], 1e-9, **options)


@pytest.mark.slow
def test_inverted_and_fresh_starts_may_share_a_batch(sampler, classifier):
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(sampler.latent_shape, generator=generator)
    offsets = torch.randn((4, *sampler.latent_shape), generator=generator) / 10
    problems = problems_of(sampler, 3)
    starts, corrections = problems.latents.clone(), torch.zeros(3, *offsets.shape)
    starts[1], corrections[1] = latents, offsets
    conditioning = replace(problems.conditioning, offsets=corrections)
    problems = replace(problems, latents=starts, conditioning=conditioning)
    settings = GuidanceSettings(chain={"steps": 4}, optimiser={"steps": 2}, views={"cutouts": 2})
    objective = TargetClass(classifier, TARGETS[:3])
    together = solve(sampler, problems, objective, settings)
    for found, expected in zip(
        together, alone(sampler, problems, objective, settings), strict=True
    ):
        assert_same(found, expected)
    # Those of noise have no offsets where none of their batch has.
    fresh = alone(sampler, problems_of(sampler, 3), objective, settings)
    for row in (0, 2):
        assert_same(together[row], fresh[row])
    plain = condition(sampler, [PROMPTS[1]])
    with torch.no_grad():
        start = result(
            denoise(
                sampler,
                latents[None],
                replace(plain, offsets=offsets[None]),
                steps=4,
                guidance_scale=3.0,
            )
        )
    torch.testing.assert_close(together[1].start_image, sampler.decode(start)[0], rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("cosine", [False, True])
def test_one_problem_is_plain_adam_on_the_whole_chain(double_sampler, double_classifiers, cosine):
    """Against torch.optim.Adam and autograd from the loss to the latents, in one graph."""
    sampler, classifier = double_sampler, double_classifiers[0]
    settings = GuidanceSettings(
        chain={"steps": 4},
        optimiser={
            "steps": 4,
            "learning_rate": 0.03,
            "latents_factor": 0.1,
            "text_factor": 0.7,
            "null_factor": 1.3,
            "relative_epsilon": 0,
            "cosine": cosine,
            "clip": 2e-3,
        },
        views={"cutouts": 0, "predictions": 3},
    )
    problem, objective = problems_of(sampler, 1), TargetClass(classifier, TARGETS[:1])
    (found,) = solve(sampler, problem, objective, settings)
    latents = sampler.initial_latents([20]).requires_grad_()
    plain = condition(sampler, [PROMPTS[0]])
    shape = (1, 4, *plain.text.shape[1:])
    text, null = (torch.zeros(shape).double().requires_grad_() for _ in range(2))
    adam = torch.optim.Adam(
        [
            {"params": [latents], "lr": 0.03 * 0.1},
            {"params": [text], "lr": 0.03 * 0.7},
            {"params": [null], "lr": 0.03 * 1.3},
        ],
    )
    rates = torch.optim.lr_scheduler.LambdaLR(
        adam, lambda step: (1 + math.cos(math.pi * step / 4)) / 2 if cosine else 1.0
    )
    norm, losses, images = latents.detach().norm(), [], []
    for _ in range(5):
        states = denoise(
            sampler,
            latents,
            replace(plain, text_delta=text, null_delta=null),
            steps=4,
            guidance_scale=3.0,
        )
        predictions = last_predictions(states, 3)
        decoded = [sampler.decode(prediction) for prediction in predictions]
        crossed = [F.cross_entropy(classifier.logits(image), TARGETS[:1]) for image in decoded]
        losses.append(float(crossed[-1].detach()))
        images.append(decoded[-1].detach()[0])
        adam.zero_grad()
        (crossed[0] / 6 + crossed[1] * 2 / 6 + crossed[2] * 3 / 6).backward()
        variables = [latents, text, null]
        assert max(float(variable.grad.abs().max()) for variable in variables) > 2e-3
        torch.nn.utils.clip_grad_value_(variables, 2e-3)
        adam.step()
        rates.step()
        with torch.no_grad():
            latents.mul_(norm / latents.norm())
    assert found.loss_trajectory == pytest.approx(losses, rel=1e-5)
    best = min(range(5), key=losses.__getitem__)
    assert best > 0
    assert found.best_step == best
    torch.testing.assert_close(found.image, images[best], rtol=0, atol=1e-5)


def test_the_loss_of_a_real_objective_falls(sampler, classifier):
    settings = GuidanceSettings(
        chain={"steps": 3}, optimiser={"steps": 6, "learning_rate": 0.05}, views={"cutouts": 2}
    )
    objective = TargetClass(classifier, TARGETS)
    solutions = solve(sampler, problems_of(sampler), objective, settings)
    for target, solution in zip(TARGETS, solutions, strict=True):
        losses = solution.loss_trajectory
        assert len(losses) == 7
        assert min(losses) < losses[0] - 0.1
        shown = torch.stack([solution.start_image, solution.image])
        p = classifier.probabilities(shown)[:, target]
        assert p[1] > p[0]
        torch.testing.assert_close(
            -p.log(), torch.tensor([losses[0], min(losses)]), rtol=1e-3, atol=1e-3
        )


def test_without_optimisation_it_is_plain_diffusion(sampler, classifier):
    settings = GuidanceSettings(chain={"steps": 5, "guidance_scale": 2.0}, optimiser={"steps": 0})
    objective = TargetClass(classifier, TARGETS[:1])
    (found,) = solve(sampler, problems_of(sampler, 1), objective, settings)
    expected = sample(sampler, [PROMPTS[0]], [20], steps=5, guidance_scale=2.0)[0]
    torch.testing.assert_close(found.image, expected.clone(), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.start_image, found.image)
    assert len(found.loss_trajectory) == 1
    assert found.best_step == 0


def test_the_best_image_of_the_trajectory_is_returned_and_the_start_takes_part(sampler):
    values = torch.tensor([[3.0, 1.0, 5.0], [2.0, 2.0, 5.0], [1.0, 3.0, 4.0],
                           [4.0, 4.0, 3.0], [2.5, 5.0, 2.0]])  # fmt: skip
    objective = Scripted(values)
    solutions = solve(sampler, problems_of(sampler, 3), objective, QUICK)
    for row, (solution, best) in enumerate(zip(solutions, (2, 0, 4), strict=True)):
        assert solution.best_step == best
        assert solution.loss_trajectory == values[:, row].tolist()
        torch.testing.assert_close(solution.image, objective.record[best][1][row])
        torch.testing.assert_close(solution.start_image, objective.record[0][1][row])
    moved = objective.record[4][1] - objective.record[0][1]
    assert moved.abs().amax((1, 2, 3)).min() > 1e-3


class DistanceOfViews(PixelDistance):
    """A distance to a plain colour, which views of an image may have as well as the image."""

    on_views = True

    def select(self, rows):
        return DistanceOfViews(self.reference[rows])


@pytest.mark.slow
def test_finished_problems_leave_the_batch_and_change_nothing_for_the_others(sampler):
    reference = torch.linspace(0.1, 0.9, 4).view(4, 1, 1, 1).expand(4, 3, 16, 16)
    objective = DistanceOfViews(reference)
    settings = GuidanceSettings(
        chain={"steps": 2}, optimiser={"steps": 5, "learning_rate": 0.05}, views={"cutouts": 2}
    )
    whole = solve(sampler, problems_of(sampler, 4), objective, settings)
    # Between the losses that two of the problems reach on their way, after at least one step.
    stop = sorted(solution.loss_trajectory[2] for solution in whole)[1] + 1e-4
    stopping = adjusted(settings, "optimiser", stop_below=stop)
    lengths = []
    for row, (found, expected) in enumerate(
        zip(
            solve(sampler, problems_of(sampler, 4), objective, stopping),
            alone(sampler, problems_of(sampler, 4), objective, stopping),
            strict=True,
        )
    ):
        assert_same(found, expected)
        full = whole[row].loss_trajectory
        below = [step for step, loss in enumerate(full) if loss < stop]
        length = below[0] + 1 if below else len(full)
        assert len(found.loss_trajectory) == length
        assert found.loss_trajectory == pytest.approx(full[:length], abs=1e-4)
        lengths.append(length)
    assert min(lengths) <= 3
    assert max(lengths) > min(lengths)


def test_a_finished_problem_is_not_computed_any_more(sampler, sizes):
    values = torch.tensor([[5.0, 5.0, 5.0], [5.0, 0.0, 5.0], [0.0, 9.0, 5.0],
                           [9.0, 9.0, 5.0], [9.0, 9.0, 5.0]])  # fmt: skip
    objective = Scripted(values)
    settings = adjusted(QUICK, "optimiser", stop_below=1.0)
    solutions = solve(sampler, problems_of(sampler, 3), objective, settings)
    assert [rows for rows, _ in objective.record] == [[0, 1, 2], [0, 1, 2], [0, 2], [2], [2]]
    assert sizes == [3, 3, 2, 1, 1]
    assert [len(solution.loss_trajectory) for solution in solutions] == [3, 2, 5]


class Countdown(Objective):
    """Falls by one at each look at a problem, and is below 0.5 at the last of so many."""

    def __init__(self, looks, seen=None, rows=None):
        self.looks, self.rows = looks, list(range(len(looks))) if rows is None else rows
        self.seen = [] if seen is None else seen

    def value_and_gradient(self, images):
        self.seen.append(self.rows)
        before = [sum(row in rows for rows in self.seen) for row in self.rows]
        left = [self.looks[row] - seen for row, seen in zip(self.rows, before, strict=True)]
        return torch.tensor(left, dtype=images.dtype), images - 0.3

    def select(self, rows):
        return Countdown(self.looks, self.seen, [self.rows[row] for row in rows.tolist()])


def at_once(sampler, count):
    """A memory in which more problems at once have not fitted."""
    memory = Memory(sampler)
    memory.most["problems"] = count
    return memory


def test_a_problem_that_waits_takes_the_place_of_one_that_is_finished(sampler, sizes):
    looks = [1, 5, 2, 1, 3, 1]
    problems, objective = problems_of(sampler, 6), Countdown(looks)
    settings = adjusted(QUICK, "optimiser", stop_below=0.5)
    states = list(optimise(sampler, problems, objective, settings, at_once(sampler, 2)))
    assert objective.seen == [[0, 1], [1, 2], [1, 2], [1, 3], [1, 4], [4, 5], [4]]
    # The batch stays full, and no smaller size is met before nothing waits.
    assert sizes == [2, 2, 2, 2, 2, 2, 1]
    # A state is of problems that have taken as many steps.
    told = [(state.step, state.rows) for state in states[:5]]
    assert told == [(0, [0, 1]), (0, [2]), (1, [1]), (1, [2]), (2, [1])]
    solutions = followed(Solutions(problems), states)
    assert [len(solution.loss_trajectory) for solution in solutions] == looks
    assert all(solution.loss_trajectory[-1] == 0 for solution in solutions)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_problems_that_waited_come_to_what_they_come_to_alone(
    double_sampler, double_classifiers, kind
):
    settings = GuidanceSettings(
        chain={"steps": 3},
        optimiser={"steps": 4, "learning_rate": 0.05, "kind": kind, "cosine": True},
        views={"cutouts": 2, "predictions": 2},
        regularisers={"latents": 2.0, "deltas": 3.0},
    )
    problems = problems_of(double_sampler)
    objective = TargetClass(double_classifiers[0], TARGETS)
    full = solve(double_sampler, problems, objective, settings)
    stop = sorted(loss for one in full for loss in one.loss_trajectory[:-1])[12] + 1e-4
    settings = adjusted(settings, "optimiser", stop_below=stop)
    memory = at_once(double_sampler, 3)
    states = list(optimise(double_sampler, problems, objective, settings, memory))
    together = followed(Solutions(problems), states)
    assert len({len(one.loss_trajectory) for one in together}) > 1
    # Some had begun when others had not.
    assert [state.step for state in states] != sorted(state.step for state in states)
    assert max(len(state.rows) for state in states) <= 3
    for found, expected in zip(
        together, alone(double_sampler, problems, objective, settings), strict=True
    ):
        assert_same(found, expected, 1e-9)


@pytest.mark.parametrize("when", [0, 2])
def test_a_problem_that_is_not_finite_ends_with_a_reason_and_the_others_go_on(sampler, when):
    class Broken(PixelDistance):
        """A distance whose value and gradient are not finite for one reference, from a step on."""

        def __init__(self, reference, mask=None, calls=None):
            super().__init__(reference, mask)
            self.calls = [] if calls is None else calls

        def value_and_gradient(self, images):
            values, gradients = super().value_and_gradient(images)
            self.calls.append(len(images))
            bad = (self.reference[:, 0, 0, 0] == 0.5) & (len(self.calls) > when)
            values[bad], gradients[bad] = math.nan, math.nan
            return values, gradients

        def select(self, rows):
            return Broken(self.reference[rows], None, self.calls)

    reference = torch.tensor([0.2, 0.5, 0.8]).view(3, 1, 1, 1).expand(3, 3, 16, 16)
    solutions = solve(sampler, problems_of(sampler, 3), Broken(reference), QUICK)
    assert f"not finite at step {when}" in solutions[1].failed
    assert len(solutions[1].loss_trajectory) == when
    assert (solutions[1].image is None) == (when == 0)
    for row in (0, 2):
        one = problems_of(sampler, 3).select(torch.tensor([row]))
        (expected,) = solve(sampler, one, PixelDistance(reference[[row]]), QUICK)
        assert solutions[row].failed is None
        assert len(solutions[row].loss_trajectory) == 5
        assert_same(solutions[row], expected)


def test_a_problem_whose_gradient_is_not_finite_ends_with_a_reason(sampler):
    class Kinked(PixelDistance):
        """A distance whose gradient, and not its value, is not finite for one reference."""

        def value_and_gradient(self, images):
            values, gradients = super().value_and_gradient(images)
            gradients[self.reference[:, 0, 0, 0] == 0.5, 0, 3, 3] = math.inf
            return values, gradients

        def select(self, rows):
            return Kinked(self.reference[rows])

    reference = torch.tensor([0.2, 0.5, 0.8]).view(3, 1, 1, 1).expand(3, 3, 16, 16)
    solutions = solve(sampler, problems_of(sampler, 3), Kinked(reference), QUICK)
    # Its image was good, and is kept.
    assert solutions[1].failed == "the gradient was not finite at step 0"
    assert torch.equal(solutions[1].image, solutions[1].start_image)
    assert len(solutions[1].loss_trajectory) == 1
    for row in (0, 2):
        one = problems_of(sampler, 3).select(torch.tensor([row]))
        (expected,) = solve(sampler, one, PixelDistance(reference[[row]]), QUICK)
        assert_same(solutions[row], expected)
    # Of a batch of such problems alone the reason is told, too.
    (lost,) = solve(sampler, problems_of(sampler, 1), Kinked(reference[1:2]), QUICK)
    assert lost.failed == "the gradient was not finite at step 0"


def test_out_of_memory_halves_the_batch_and_changes_no_result(sampler, classifier, monkeypatch):
    settings = GuidanceSettings(chain={"steps": 3}, optimiser={"steps": 2}, views={"cutouts": 2})
    objective = TargetClass(classifier, TARGETS[:5])
    expected = solve(sampler, problems_of(sampler, 5), objective, settings)
    sizes = []

    def small(sampler, latents, *arguments, **options):
        sizes.append(len(latents))
        if len(latents) == 5 and len(sizes) == 2:
            raise torch.OutOfMemoryError("no memory")
        return denoise(sampler, latents, *arguments, **options)

    monkeypatch.setattr(module, "denoise", small)
    found = solve(sampler, problems_of(sampler, 5), objective, settings)
    assert sizes == [5, 5, 3, 3, 3, 2, 2, 2]
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)


def test_a_single_problem_that_is_too_large_is_recomputed_step_by_step(sampler, monkeypatch):
    objective = PixelDistance(torch.full((1, 3, 16, 16), 0.3))
    expected = solve(sampler, problems_of(sampler, 1), objective, QUICK)
    held = []

    def small(*arguments, segment, **options):
        held.append(segment)
        if segment != 1 and len(held) == 2:
            raise torch.OutOfMemoryError("no memory")
        return denoise(*arguments, segment=segment, **options)

    monkeypatch.setattr(module, "denoise", small)
    (found,) = solve(sampler, problems_of(sampler, 1), objective, QUICK)
    assert held == [None, None, 1, 1, 1, 1, 1]
    assert_same(found, expected[0])


def test_truncated_gradients_lower_the_loss_nearly_as_much(sampler):
    objective = PixelDistance(torch.full((2, 3, 16, 16), 0.3))

    def gains(**options):
        settings = adjusted(QUICK, "chain", steps=4, **options)
        solutions = solve(sampler, problems_of(sampler, 2), objective, settings)
        return [s.loss_trajectory[0] - min(s.loss_trajectory) for s in solutions]

    for exact, truncated in zip(gains(), gains(gradient_steps=2), strict=True):
        assert exact > 0
        assert exact / 2 < truncated
        assert truncated != pytest.approx(exact, rel=1e-3)


def test_a_single_problem_that_is_too_large_says_so(sampler, classifier, monkeypatch):
    def full(*arguments, **options):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(module, "denoise", full)
    with pytest.raises(torch.OutOfMemoryError, match="no memory"):
        solve(sampler, problems_of(sampler, 2), TargetClass(classifier, TARGETS[:2]), QUICK)


@pytest.mark.parametrize("kept", ["latents", "text", "null", None])
def test_latents_keep_their_norm_and_a_factor_of_zero_keeps_its_variable(
    sampler, classifier, monkeypatch, kept
):
    seen = []

    def watched(sampler, latents, conditioning, **options):
        seen.append(
            {
                "latents": latents.detach().clone(),
                "text": conditioning.text_delta,
                "null": conditioning.null_delta,
            }
        )
        return denoise(sampler, latents, conditioning, **options)

    monkeypatch.setattr(module, "denoise", watched)
    settings = QUICK if kept is None else adjusted(QUICK, "optimiser", **{f"{kept}_factor": 0.0})
    objective = TargetClass(classifier, TARGETS[:2])
    solve(sampler, problems_of(sampler, 2), objective, settings)
    first, last = seen[0], seen[-1]
    torch.testing.assert_close(first["latents"], sampler.initial_latents([20, 21]))
    norms = [step["latents"].flatten(1).norm(dim=1) for step in seen]
    for norm in norms:
        torch.testing.assert_close(norm, norms[0])
    for name in ("latents", "text", "null"):
        if name == "latents" and kept == name:
            torch.testing.assert_close(last[name], first[name], rtol=0, atol=1e-6)
        elif kept == name:
            assert all(step[name] is None for step in seen)
        else:
            assert (last[name] - first[name]).abs().max() > 0.01
            if name != "latents":
                assert not first[name].any()


def test_the_state_is_told_at_each_step(sampler, classifier):
    problems, objective = problems_of(sampler, 2), TargetClass(classifier, TARGETS[:2])
    solutions, told = Solutions(problems), []
    for state in optimise(sampler, problems, objective, QUICK):
        solutions.add(state)
        told.append((state.step, [len(one.loss_trajectory) for one in solutions.each]))
    assert told == [(step, [step + 1, step + 1]) for step in range(5)]
