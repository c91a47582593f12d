"""The hot path: a batch of independent problems, optimised through the whole chain.

One step, top to bottom: chain -> image -> the objective's gradient at the image -> backward through
decoder and chain -> one Adam step a problem. The classifier's graph is gone before the chain's
backward begins. ("DiG-IN", section 3; the reference does one image at a time.)
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from whylens.diffusion.attention import Injection
from whylens.diffusion.chain import Blend, Conditioning, condition, run_chain
from whylens.diffusion.inversion import Inversion
from whylens.diffusion.sampler import Sampler
from whylens.guidance.augment import Views, augmented_value_and_gradient
from whylens.guidance.objectives import Objective
from whylens.guidance.regularisers import Regularisers
from whylens.guidance.settings import GuidanceSettings

logger = logging.getLogger(__name__)

# Adam's epsilon as a part of the problem's own root mean square gradient: entries far below it are
# rounding noise, which plain Adam would blow up to full steps (and make batches differ).
RELATIVE_EPSILON = 0.03


@dataclass(frozen=True)
class Frame:
    """What images [B, 3, S, S] show outside of masks [B, 1, S, S], both in [0, 1]."""

    images: Tensor
    masks: Tensor

    def around(self, images: Tensor) -> Tensor:
        """Images [B, 3, S, S] where the masks are 1, the frame's where they are 0."""
        return self.images + self.masks * (images - self.images)

    def select(self, rows: Tensor) -> "Frame":
        """The frame of some problems of the batch."""
        return Frame(self.images[rows], self.masks[rows])


@dataclass(frozen=True)
class Problem:
    """One image to make: its prompt, the seed of its noise and of the views of it.

    `latents` [c, h, w] with `offsets` [T, c, h, w] or `null_delta` [T, L, C] start from an
    inverted image instead. Its first steps may take over cross-attention (`injection`), its latents
    (`blend`) and the image itself (`frame`) may be held outside of a mask: batches of one each. In
    a batch all problems have such a part, or none has. `kept` [c, h, w] are the latents that
    `settings.keep_latents` holds the result to; without them, those of the start.
    """

    prompt: str
    seed: int
    latents: Tensor | None = None
    offsets: Tensor | None = None
    null_delta: Tensor | None = None
    kept: Tensor | None = None
    injection: Injection | None = None
    blend: Blend | None = None
    frame: Frame | None = None

    @classmethod
    def starting(cls, prompt: str, seed: int, inversion: Inversion, row: int) -> "Problem":
        """The problem that starts from an image of an inversion's batch."""
        found = inversion.select(torch.tensor([row]))
        return cls(
            prompt,
            seed,
            found.noise[0],
            None if found.offsets is None else found.offsets[:, 0],
            None if found.null_delta is None else found.null_delta[:, 0],
            found.latents[0],
        )


@dataclass
class Solution:
    """What became of a problem.

    image, start_image
        The best image of the trajectory by its plain loss, and the one before any optimisation,
        [3, S, S] in [0, 1]; None where not even that could be made.
    loss_trajectory
        The plain (un-augmented) loss of each image, the start's first.
    best_step
        Index of `image` in the trajectory.
    failed
        Why the problem ended early, None where it didn't.
    mask, attention_steps, blend_start
        Of a real image: where it could change, [1, S, S] in [0, 1]; how many steps kept the
        image's cross-attention; from which step on latents outside of the mask were its own.
    """

    image: Tensor | None = None
    start_image: Tensor | None = None
    loss_trajectory: list[float] = field(default_factory=list)
    best_step: int = 0
    failed: str | None = None
    mask: Tensor | None = None
    attention_steps: int | None = None
    blend_start: int | None = None


OnStep = Callable[[int, Sequence[Solution]], None]


def optimise(
    sampler: Sampler,
    problems: Sequence[Problem],
    objective: Objective,
    settings: GuidanceSettings,
    on_step: OnStep | None = None,
) -> list[Solution]:
    """Solve a batch of problems; each gets the result that it would get alone.

    A problem that is finished, or whose numbers stop being finite, leaves the batch. Where the
    device's memory is too small, the batch is halved; a single problem is recomputed step by step.
    """
    try:
        return _optimise(sampler, problems, objective, settings, on_step)
    except torch.OutOfMemoryError:
        if len(problems) == 1 and settings.held_steps == 1:
            raise
    if len(problems) == 1:
        logger.warning("out of memory with one problem; going on with held_steps = 1")
        least = settings.model_copy(update={"held_steps": 1})
        return optimise(sampler, problems, objective, least, on_step)
    half = len(problems) // 2
    logger.warning("out of memory with %d problems at once; going on with %d", len(problems), half)
    rows = torch.arange(len(problems))
    return [
        *optimise(sampler, problems[:half], objective.select(rows[:half]), settings, on_step),
        *optimise(sampler, problems[half:], objective.select(rows[half:]), settings, on_step),
    ]


def _optimise(
    sampler: Sampler,
    problems: Sequence[Problem],
    objective: Objective,
    settings: GuidanceSettings,
    on_step: OnStep | None,
) -> list[Solution]:
    solutions = [_unsolved(problem) for problem in problems]
    active = list(range(len(problems)))
    variables, base = _start(sampler, problems, settings)
    frames = [problem.frame for problem in problems if problem.frame is not None]
    frame = _stacked_frame(frames)
    norms = variables["latents"].flatten(1).norm(dim=1)
    regularisers = Regularisers(variables, [problem.kept for problem in problems], settings)
    adam = _Adam(variables, settings)
    views = Views(
        [p.seed for p in problems],
        cutouts=settings.cutouts,
        smallest=settings.cutout_min,
        noise=settings.noise,
    )
    weights = torch.arange(1, settings.last_predictions + 1, device=sampler.device)
    weights = weights / weights.sum()
    for step in range(settings.optimisation_steps + 1):
        with torch.enable_grad():
            for variable in variables.values():
                variable.requires_grad_(True)
            predictions = run_chain(
                sampler,
                variables["latents"],
                _conditioning(base, variables),
                steps=settings.steps,
                guidance_scale=settings.guidance_scale,
                keep_last=settings.last_predictions,
                held_steps=settings.held_steps,
                gradient_steps=settings.gradient_steps,
            )
            images = [sampler.decode(latents) for latents in predictions]
            if frame is not None:
                images = [frame.around(image) for image in images]
        values, plain = objective.value_and_gradient(images[-1].detach())
        values = values + regularisers.values(predictions[-1], variables).to(values)
        going = _record(solutions, active, step, values, images[-1].detach(), settings)
        if on_step is not None:
            on_step(step, solutions)
        if step == settings.optimisation_steps or not going.any():
            break
        gradients = []
        for image in images:
            if settings.cutouts:
                _, gradient = augmented_value_and_gradient(objective, image.detach(), active, views)
            elif image is images[-1]:
                gradient = plain
            else:
                _, gradient = objective.value_and_gradient(image.detach())
            gradients.append(gradient)
        ends = [(i, w * g.to(i)) for w, g, i in zip(weights, gradients, images, strict=True)]
        if (pull := regularisers.at_latents(predictions[-1])) is not None:
            ends.append((predictions[-1], pull))
        slopes = torch.autograd.grad(
            [end for end, _ in ends],
            [variables[name] for name in adam.moved],
            [gradient for _, gradient in ends],
        )
        with torch.no_grad():
            moving = dict(zip(adam.moved, slopes, strict=True))
            for name, gradient in regularisers.at_variables(variables).items():
                if name in moving:
                    moving[name] = moving[name] + gradient
            updates = adam.updates(moving, step)
            variables = {k: v.detach() + updates.get(k, 0.0) for k, v in variables.items()}
            variables["latents"] = _with_norm(variables["latents"], norms)
        if not going.all():
            rows = going.nonzero()[:, 0]
            active = [active[int(row)] for row in rows]
            variables = {name: _rows(name, v, rows) for name, v in variables.items()}
            adam.select(rows)
            regularisers.select(rows)
            base, norms, objective = base.select(rows), norms[rows], objective.select(rows)
            frame = None if frame is None else frame.select(rows)
    return solutions


def _unsolved(problem: Problem) -> Solution:
    """The solution of a problem before its first image: what the problem is held to."""
    return Solution(
        mask=None if problem.frame is None else problem.frame.masks[0],
        attention_steps=None if problem.injection is None else int(problem.injection.until[0]),
        blend_start=None if problem.blend is None else int(problem.blend.start[0]),
    )


def _start(
    sampler: Sampler, problems: Sequence[Problem], settings: GuidanceSettings
) -> tuple[dict[str, Tensor], Conditioning]:
    latents = sampler.initial_latents([p.seed for p in problems])
    for row, problem in enumerate(problems):
        if problem.latents is not None:
            latents[row] = problem.latents
    base = condition(sampler, [p.prompt for p in problems])
    if any(p.offsets is not None for p in problems):
        nothing = latents.new_zeros((settings.steps, *sampler.latent_shape))
        offsets = [nothing if p.offsets is None else p.offsets for p in problems]
        base = replace(base, offsets=torch.stack(offsets, 1))
    injections = [p.injection for p in problems if p.injection is not None]
    blends = [p.blend for p in problems if p.blend is not None]
    for parts in (injections, blends, [p.frame for p in problems if p.frame is not None]):
        if len(parts) not in (0, len(problems)):
            raise ValueError("of a batch all problems have an injection, a blend, a frame, or none")
    if injections:
        base = replace(base, injection=Injection.stack(injections))
    if blends:
        base = replace(
            base,
            blend=Blend(
                torch.cat([blend.way for blend in blends], 1),
                torch.cat([blend.mask for blend in blends]),
                torch.cat([blend.start for blend in blends]),
            ),
        )
    variables = {"latents": latents}
    shape = (settings.steps, *base.text.shape)
    if settings.text_factor:
        variables["text_delta"] = latents.new_zeros(shape)
    found = [problem.null_delta for problem in problems]
    if (settings.null_factor and settings.guidance_scale > 1) or any(d is not None for d in found):
        nothing = latents.new_zeros((settings.steps, *base.text.shape[1:]))
        variables["null_delta"] = torch.stack([nothing if d is None else d for d in found], 1)
    return variables, base


def _stacked_frame(frames: Sequence[Frame]) -> Frame | None:
    if not frames:
        return None
    return Frame(torch.cat([f.images for f in frames]), torch.cat([f.masks for f in frames]))


def _conditioning(base: Conditioning, variables: dict[str, Tensor]) -> Conditioning:
    return replace(
        base, text_delta=variables.get("text_delta"), null_delta=variables.get("null_delta")
    )


def _record(
    solutions: list[Solution],
    active: list[int],
    step: int,
    values: Tensor,
    images: Tensor,
    settings: GuidanceSettings,
) -> Tensor:
    """Note each problem's image and loss; which rows go on."""
    going = torch.ones(len(active), dtype=torch.bool)
    for row, index in enumerate(active):
        solution, value = solutions[index], float(values[row])
        if not math.isfinite(value) or not bool(images[row].isfinite().all()):
            solution.failed = f"the image or its loss was not finite at step {step}"
            going[row] = False
            continue
        solution.loss_trajectory.append(value)
        if step == 0:
            solution.start_image = images[row].clone()
        if solution.image is None or value < solution.loss_trajectory[solution.best_step]:
            solution.image, solution.best_step = images[row].clone(), step
        if settings.stop_below is not None and value < settings.stop_below:
            going[row] = False
    return going


class _Adam:
    """Adam (Kingma and Ba 2015) on variables with a problem axis; each problem has its own state.

    The latents' problem axis is 0, the deltas' is 1 (their first is the time step).
    """

    def __init__(self, variables: dict[str, Tensor], settings: GuidanceSettings) -> None:
        factors = {
            "latents": settings.latents_factor,
            "text_delta": settings.text_factor,
            "null_delta": settings.null_factor,
        }
        self.settings, self.factors = settings, factors
        self.moved = [name for name in variables if factors[name] > 0]
        self.first = {name: torch.zeros_like(variables[name]) for name in self.moved}
        self.second = {name: torch.zeros_like(variables[name]) for name in self.moved}

    def updates(self, gradients: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """What one step adds to the variables."""
        settings = self.settings
        rate = settings.learning_rate
        if settings.cosine:
            rate *= 0.5 * (1 + math.cos(math.pi * step / max(settings.optimisation_steps, 1)))
        updates = {}
        for name, gradient in gradients.items():
            gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
            if settings.clip is not None:
                gradient = gradient.clamp(-settings.clip, settings.clip)
            first = self.first[name].lerp_(gradient, 0.1)
            second = self.second[name].lerp_(gradient.square(), 0.001)
            mean = first / (1 - 0.9 ** (step + 1))
            deviation = (second / (1 - 0.999 ** (step + 1))).sqrt()
            axes = [a for a in range(gradient.ndim) if a != _axis(name)]
            typical = deviation.square().mean(axes, keepdim=True).sqrt()
            direction = mean / (deviation + RELATIVE_EPSILON * typical + 1e-20)
            updates[name] = -rate * self.factors[name] * direction
        return updates

    def select(self, rows: Tensor) -> None:
        """Keep the state of some problems."""
        for state in (self.first, self.second):
            for name in list(state):
                state[name] = _rows(name, state[name], rows)


def _axis(name: str) -> int:
    return 0 if name == "latents" else 1


def _rows(name: str, variable: Tensor, rows: Tensor) -> Tensor:
    return variable.detach().index_select(_axis(name), rows.to(variable.device))


def _with_norm(latents: Tensor, norms: Tensor) -> Tensor:
    """Latents rescaled to the norm that each problem started with."""
    length = latents.flatten(1).norm(dim=1).clamp_min(1e-12)
    scaled: Tensor = latents * (norms / length).view(-1, 1, 1, 1)
    return scaled
