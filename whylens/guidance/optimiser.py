"""The hot path: a batch of independent problems, optimised through the whole chain.

One step, top to bottom: chain -> image -> the objective's gradient at the image -> backward through
decoder and chain -> one step of each problem's optimiser (`Descent`). The classifier's graph is
gone before the chain's backward begins. ("DiG-IN", section 3; the reference does one image at a
time.)
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from whylens.batch import beside
from whylens.diffusion.chain import denoise, last_predictions
from whylens.diffusion.sampler import Sampler
from whylens.guidance.descent import Descent, moved_variables, with_deltas
from whylens.guidance.looking import look
from whylens.guidance.memory import Memory
from whylens.guidance.objectives import Objective
from whylens.guidance.problems import Problems
from whylens.guidance.regularisers import Regularisers
from whylens.guidance.settings import GuidanceSettings, OptimiserSettings
from whylens.guidance.views import ViewGenerator

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class State:
    """What an optimisation shows after a step.

    step
        0 before any optimisation.
    rows
        [b]: which problems of the batch the images are of; those that are finished are missing.
    images
        [b, 3, S, S] in [0, 1].
    losses
        [b], of the images as they are, without views; on the CPU.
    failed
        Why problems ended early since the state before, by row.
    """

    step: int
    rows: Sequence[int]
    images: Tensor
    losses: Tensor
    failed: Mapping[int, str] = field(default_factory=dict)

    def of(self, rows: Sequence[int]) -> "State":
        """The state of a part of a batch, as one of the batch; `rows` are the part's problems."""
        failed = {rows[row]: reason for row, reason in self.failed.items()}
        return replace(self, rows=[rows[row] for row in self.rows], failed=failed)


def optimise(
    sampler: Sampler,
    problems: Problems,
    objective: Objective,
    settings: GuidanceSettings,
    memory: Memory | None = None,
) -> Iterator[State]:
    """Optimise a batch of problems; each comes to what it would come to alone.

    A problem that is finished, or whose numbers stop being finite, leaves the batch. `memory` says
    how many are optimised at once, the parts of the batch one after the other, and remembers what
    did not fit. Without it all are, and it is asked for `chain.segment` = auto only. Where the
    device's memory is too small all the same, a part is halved (its halves begin again at step 0);
    a single problem is recomputed step by step.
    """
    segment, at_once = settings.chain.own_segment, len(problems)
    planned = memory is not None or settings.chain.segment == "auto"
    memory = memory or Memory(sampler)
    if planned:
        plan = memory.plan(len(problems), settings)
        segment, at_once = plan.segment, plan.problems
    every = torch.arange(len(problems))
    waiting = list(every.tensor_split(math.ceil(len(every) / at_once)))
    while waiting:
        rows = waiting.pop(0)
        if len(rows) > at_once:
            waiting = [rows[: len(rows) // 2], rows[len(rows) // 2 :], *waiting]
            continue
        part, wanted = problems, objective
        if len(rows) < len(problems):
            part, wanted = problems.select(rows), objective.select(rows)
        try:
            states = _optimise(sampler, part, wanted, settings, segment)
            yield from (state.of(rows.tolist()) for state in states)
            continue
        except torch.OutOfMemoryError:
            if len(rows) == 1 and segment == 1:
                raise
        if len(rows) == 1:
            logger.warning("out of memory with one problem; going on with chain.segment = 1")
            segment = memory.most["segment"] = 1
        else:
            memory.ran_out("problems", len(rows))
            at_once = memory.most["problems"]
        waiting = [rows, *waiting]


def _optimise(
    sampler: Sampler,
    problems: Problems,
    objective: Objective,
    settings: GuidanceSettings,
    segment: int | None,
) -> Iterator[State]:
    chain = settings.chain
    problems = with_deltas(sampler, problems.with_noise(sampler, chain.steps), settings)
    moved = moved_variables(problems, settings.optimiser)
    rows = list(range(len(problems)))
    norms = problems.latents.flatten(1).norm(dim=1)
    regularisers = Regularisers(
        problems.variables(), problems.reference, settings.regularisers, problems.background
    )
    descent = Descent(settings.optimiser, moved)
    generator = ViewGenerator(problems.seeds.tolist(), settings.views)
    count, steps = settings.views.predictions, settings.optimiser.steps
    weights = [place / sum(range(count + 1)) for place in range(1, count + 1)]
    sound = torch.ones(len(problems), dtype=torch.bool, device=sampler.device)
    for step in range(steps + 1):
        # The chain, and its last predictions.
        moving = step < steps
        variables = {
            name: problems.variables()[name].detach().requires_grad_(moving) for name in moved
        }
        problems = problems.moved_to(variables)
        with torch.set_grad_enabled(moving):
            states = denoise(
                sampler,
                problems.latents,
                problems.conditioning,
                steps=chain.steps,
                guidance_scale=chain.guidance_scale,
                segment=segment,
                gradient_steps=chain.gradient_steps,
            )
            *before, end = last_predictions(states, count if moving else 1)
        # Decoder and objective: the gradient at the latents.
        drawn = [generator.draw(rows, sampler.device) if moving and settings.views.cutouts else None
                 for _ in range(count)]  # fmt: skip
        seen = look(sampler, problems, objective, end.detach(), drawn[-1], gradient=moving)
        losses = seen.losses + regularisers.values(end, problems.variables()).to(seen.losses)
        # All that the host needs to know of a step, in one transfer.
        finite = losses.isfinite() & seen.images.flatten(1).isfinite().all(1)
        told = _told(losses, finite, sound)
        failed = {
            row: reason for row, one in zip(rows, told, strict=True)
            if (reason := _reason(one, step)) is not None
        }  # fmt: skip
        good = [place for place, row in enumerate(rows) if row not in failed]
        yield _state(step, rows, good, seen.images, [one.loss for one in told], failed)
        going = [place for place in good if not _finished(told[place].loss, settings.optimiser)]
        if not moving or not going:
            return
        pulls = [
            look(
                sampler, problems, objective, latents.detach(), views, decode=sampler.preview
            ).pulls
            for latents, views in zip(before, drawn[:-1], strict=True)
        ]
        # Backward, from the latents.
        pulls = [w * pull for w, pull in zip(weights, [*pulls, seen.pulls], strict=True)]
        if (pull := regularisers.at_latents(end)) is not None:
            pulls[-1] = pulls[-1] + pull
        slopes = dict(
            zip(
                moved,
                torch.autograd.grad([*before, end], list(variables.values()), pulls),
                strict=True,
            )
        )
        for name, gradient in regularisers.at_variables(problems.variables()).items():
            if name in slopes:
                slopes[name] = slopes[name] + gradient
        # One step of each problem's own optimiser; the next step tells whose gradient was unsound.
        sound = torch.stack([g.flatten(1).isfinite().all(1) for g in slopes.values()]).all(0)
        slopes = {name: g.where(beside(sound, g), 0) for name, g in slopes.items()}
        problems = problems.moved_to(descent.moved(step, variables, slopes))
        problems = replace(problems, latents=_with_norm(problems.latents, norms))
        if len(going) < len(rows):
            left, rows = torch.tensor(going, device=sampler.device), [rows[i] for i in going]
            problems, objective = problems.select(left), objective.select(left)
            norms, sound = norms[left], sound[left]
            descent.select(left)
            regularisers.select(left)


class Told(NamedTuple):
    """What the host knows of a problem's step."""

    loss: float
    finite: bool
    sound: bool


def _told(losses: Tensor, finite: Tensor, sound: Tensor) -> list[Told]:
    rows = torch.stack([losses.double(), finite.double(), sound.double()], 1).tolist()
    return [Told(loss, bool(good), bool(right)) for loss, good, right in rows]


def _reason(told: Told, step: int) -> str | None:
    """Why a problem ends early, if it does."""
    if not told.sound:
        return f"the gradient was not finite at step {step - 1}"
    return None if told.finite else f"the image or its loss was not finite at step {step}"


def _state(
    step: int,
    rows: Sequence[int],
    good: Sequence[int],
    images: Tensor,
    losses: Sequence[float],
    failed: Mapping[int, str],
) -> State:
    """The state of the problems at the places `good`."""
    if len(good) < len(rows):
        images = images[torch.tensor(good, dtype=torch.int64, device=images.device)]
    kept = torch.tensor([losses[i] for i in good], dtype=torch.float64)
    return State(step, [rows[i] for i in good], images, kept, failed)


def _finished(loss: float, settings: OptimiserSettings) -> bool:
    return settings.stop_below is not None and loss < settings.stop_below


def _with_norm(latents: Tensor, norms: Tensor) -> Tensor:
    """Latents rescaled to the norm that each problem started with."""
    length = latents.flatten(1).norm(dim=1).clamp_min(1e-12)
    return latents * beside(norms / length, latents)
