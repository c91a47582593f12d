"""Earlier methods: their formulas against independent ones, and batches against single runs."""

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from scipy.optimize import minimize

from whylens.classifiers import load_classifier
from whylens.errors import UsageError
from whylens.guidance.baselines import (
    DvceSettings,
    LdceSettings,
    SvceSettings,
    diffusion_counterfactual,
    latent_counterfactual,
    pixel_counterfactual,
)
from whylens.guidance.baselines.denoising import later_steps
from whylens.guidance.baselines.dvce import ancestral, onto_cone
from whylens.guidance.baselines.interface import shown
from whylens.guidance.baselines.ldce import agreed
from whylens.guidance.objectives import TargetClass
from whylens.guidance.solutions import Latest, followed
from whylens.jobs.guided.methods import BaselineSettings, baseline_steps

BEFORE = ["a photo of a boat on grass", "a photo of a moon"]
AFTER = ["a photo of a fish on grass", "a photo of a ring"]
TARGETS = torch.tensor([4, 3])


@pytest.fixture
def images():
    coarse = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, size=16, mode="bilinear")


@pytest.fixture(scope="module")
def robust():
    return load_classifier("planted:robust")


def every_method(robust):
    return {
        "svce": (pixel_counterfactual, SvceSettings(optimisation_steps=8), {}),
        "svce, robust": (
            pixel_counterfactual,
            SvceSettings(optimisation_steps=8),
            {"robust": robust},
        ),
        "dvce": (diffusion_counterfactual, DvceSettings(steps=8), {}),
        "dvce, robust": (diffusion_counterfactual, DvceSettings(steps=8), {"robust": robust}),
        "ldce": (latent_counterfactual, LdceSettings(steps=8, angle=90), {}),
    }


def solved(method, sampler, images, *arguments, **options):
    """A method's solutions, at its end."""
    return followed(Latest(len(images)), method(sampler, images, *arguments, **options))


METHODS = ("svce", "svce, robust", "dvce", "dvce, robust", "ldce")


@pytest.mark.parametrize("name", METHODS)
def test_each_image_gets_what_it_would_get_alone(sampler, classifier, robust, images, name):
    method, settings, options = every_method(robust)[name]
    together = solved(
        method,
        sampler,
        images,
        BEFORE,
        AFTER,
        TARGETS,
        classifier,
        settings,
        seeds=[5, 6],
        **options,
    )
    for row in range(2):
        (alone,) = solved(
            method, sampler, images[[row]], BEFORE[row : row + 1], AFTER[row : row + 1],
            TARGETS[[row]], classifier, settings, seeds=[5 + row], **options,
        )  # fmt: skip
        torch.testing.assert_close(together[row].image, alone.image, rtol=0, atol=2e-3)
        assert together[row].failed is None
        assert torch.equal(together[row].start_image, images[row])
        # What is told last is the loss of the image itself.
        p = classifier.probabilities(together[row].image[None])[0, TARGETS[row]]
        assert together[row].loss_trajectory[-1] == pytest.approx(-float(p.log()), rel=1e-3)


@pytest.mark.parametrize("name", METHODS)
def test_the_target_is_what_steers(sampler, classifier, robust, images, name):
    method, settings, options = every_method(robust)[name]
    made = []
    for targets in (TARGETS, TARGETS.flip(0)):
        solutions = solved(
            method, sampler, images, BEFORE, AFTER, targets, classifier, settings, **options
        )
        made.append(torch.stack([solution.image for solution in solutions]))
    p = [classifier.probabilities(one).gather(1, TARGETS[:, None])[:, 0] for one in made]
    assert (p[0] > p[1]).all()


@pytest.mark.parametrize("name", METHODS)
def test_the_trajectory_leads_from_the_image_to_the_result(
    sampler, classifier, robust, images, name
):
    method, settings, options = every_method(robust)[name]
    solutions, seen = Latest(2), []
    for state in method(sampler, images, BEFORE, AFTER, TARGETS, classifier, settings, **options):
        solutions.add(state)
        seen.append((state.step, [solution.image.clone() for solution in solutions.each]))
    kind = name.split(",")[0]
    assert [step for step, _ in seen] == [
        *range(baseline_steps(kind, BaselineSettings(**{kind: settings})) + 1)
    ]
    for row, solution in enumerate(solutions.each):
        assert torch.equal(seen[0][1][row], images[row])
        assert torch.equal(seen[-1][1][row], solution.image)
        assert solution.best_step == len(solution.loss_trajectory) - 1 == len(seen) - 1
        # On the way it moves.
        assert not torch.equal(seen[1][1][row], images[row])


def test_a_problem_that_stops_being_finite_ends_and_the_others_go_on(classifier, images):
    broken = images.clone()
    broken[0, 0, 3, 3] = float("nan")
    losses, _ = TargetClass(classifier, TARGETS).value_and_gradient(images)
    states = [
        shown(0, images, losses),
        shown(1, broken, torch.tensor([1.0, 2.0])),
        shown(2, images, torch.tensor([0.5, 1.5])),
    ]
    told = [state.step for state in states]
    lost, kept = followed(Latest(2), states)
    assert lost.image is None
    assert lost.failed == "the image was not finite at step 1"
    assert len(lost.loss_trajectory) == 1
    assert kept.failed is None
    assert kept.loss_trajectory[1:] == [2.0, 1.5]
    assert told == [0, 1, 2]


@pytest.mark.parametrize("name", METHODS)
def test_what_does_not_fit_is_refused(sampler, classifier, robust, images, name):
    method, settings, options = every_method(robust)[name]
    with pytest.raises(ValueError, match=r"prompts_after has 1 entries for 2 images"):
        solved(method, sampler, images, BEFORE, AFTER[:1], TARGETS, classifier, settings, **options)
    with pytest.raises(UsageError, match=r"planted:biased lacks the class 11.*image 0"):
        solved(method, sampler, images, BEFORE, AFTER, TARGETS + 7, classifier, settings, **options)


@pytest.mark.parametrize("radius", [0.01, 0.08])
def test_pixel_counterfactuals_stay_in_their_ball_and_use_it(sampler, classifier, images, radius):
    settings = SvceSettings(optimisation_steps=10, radius=radius)
    for image, solution in zip(
        images,
        solved(pixel_counterfactual, sampler, images, BEFORE, AFTER, TARGETS, classifier, settings),
        strict=True,
    ):
        change = float((solution.image - image).square().mean().sqrt())
        assert 0.5 * radius < change <= radius * (1 + 1e-4)
        assert solution.image.min() >= 0
        assert solution.image.max() <= 1
        assert solution.loss_trajectory[-1] < solution.loss_trajectory[0]


def nearest_in_cone(vector, axis, angle):
    """By minimisation over (length along the axis, vector across it), from several starts.

    The edge has a kink at the tip, where a minimiser may end outside: such ends don't count.
    """
    axis = axis / np.linalg.norm(axis)
    basis = np.linalg.svd(axis[None])[2][1:]  # orthonormal, across the axis
    size = np.linalg.norm(vector)

    def point(free):
        return free[0] * axis + free[1:] @ basis

    def distance(free):
        return ((point(free) - vector) ** 2).sum()

    def room(free):
        return np.tan(np.radians(angle)) * free[0] - np.linalg.norm(free[1:])

    def slope(free):
        gap = point(free) - vector
        return 2 * np.array([gap @ axis, *(basis @ gap)])

    def slant(free):
        across = free[1:]
        return np.array(
            [np.tan(np.radians(angle)), *(-across / max(np.linalg.norm(across), 1e-12))]
        )

    ends = [np.zeros(len(vector))]  # the tip
    for along in (0.1 * size, size, 3 * size):
        start = np.array([along, *np.full(len(basis), 1e-3)])
        ends.append(
            minimize(
                distance,
                start,
                jac=slope,
                method="SLSQP",
                constraints={"type": "ineq", "fun": room, "jac": slant},
                options={"ftol": 1e-14, "maxiter": 500},
            ).x
        )
    return point(min((end for end in ends if room(end) > -1e-7), key=distance))


@pytest.mark.slow
@pytest.mark.parametrize("angle", [10.0, 30.0, 60.0])
def test_the_projection_onto_a_cone_is_the_nearest_point(angle):
    rng = np.random.default_rng(0)
    vectors, axes = rng.standard_normal((2, 12, 5))
    # Near the axis, at right angles to it, and beyond what the tip is nearest to.
    vectors[0] = axes[0] + 0.01 * vectors[0]
    vectors[1] -= (vectors[1] @ axes[1]) / (axes[1] @ axes[1]) * axes[1]
    vectors[2] = -axes[2] + 0.01 * vectors[2]
    found = onto_cone(torch.from_numpy(vectors), torch.from_numpy(axes), angle).numpy()
    inside = tips = 0
    for vector, axis, point in zip(vectors, axes, found, strict=True):
        best = nearest_in_cone(vector, axis, angle)
        if np.linalg.norm(best) < 1e-4:
            # The tip is no direction: the axis at the vector's length stands for it.
            expected = axis / np.linalg.norm(axis) * np.linalg.norm(vector)
            tips += 1
        else:
            expected = best
            inside += np.allclose(best, vector, atol=1e-5)
        np.testing.assert_allclose(point, expected, atol=2e-4)
    assert inside >= 1
    assert tips >= 1


def test_a_cone_without_axis_leaves_the_vector():
    vectors = torch.tensor([[1.0, 2.0]])
    assert torch.equal(onto_cone(vectors, torch.zeros(1, 2), 30), vectors)


def test_ancestral_steps_are_the_posterior_of_diffusers():
    scheduler = DDPMScheduler(
        num_train_timesteps=100, beta_schedule="linear", variance_type="fixed_small",
        clip_sample=False, prediction_type="sample",
    )  # fmt: skip
    scheduler.set_timesteps(20)
    generator = torch.Generator().manual_seed(0)
    latents, x0 = torch.randn(2, 2, 3, 4, 4, generator=generator, dtype=torch.float64)
    for time in (95, 50, 5):
        after = scheduler.previous_timestep(time)
        a, a_after = scheduler.alphas_cumprod[time], scheduler.alphas_cumprod[after]
        mean, variance = ancestral(latents, x0, float(a), float(a_after))
        assert variance == pytest.approx(float(scheduler._get_variance(time)), rel=1e-5)
        step = scheduler.step(x0, time, latents, generator=torch.Generator().manual_seed(1))
        noise = torch.randn(
            latents.shape, generator=torch.Generator().manual_seed(1), dtype=latents.dtype
        )
        torch.testing.assert_close(
            mean + variance**0.5 * noise, step.prev_sample, rtol=1e-5, atol=1e-5
        )


def test_the_consensus_filter_keeps_places_where_both_agree():
    degrees = torch.tensor([[0.0, 30, 44], [46, 90, 180]])
    reference = torch.stack([torch.ones(2, 3), torch.zeros(2, 3)])[None]
    gradients = 3 * torch.stack([degrees.deg2rad().cos(), degrees.deg2rad().sin()])[None]
    kept = agreed(gradients, reference, 45)
    assert torch.equal(kept[0, :, 0], gradients[0, :, 0])
    assert not kept[0, :, 1].any()
    assert torch.equal(agreed(gradients, reference, 180), gradients)


def test_a_chain_entered_midway_has_the_last_of_its_steps(sampler):
    whole = later_steps(sampler, 10, 1.0)
    assert len(whole) == 10
    assert later_steps(sampler, 10, 0.5) == whole[5:]
    assert later_steps(sampler, 10, 0.01) == whole[9:]
