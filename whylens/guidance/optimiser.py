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

import torch
from torch import Tensor

from whylens.diffusion.chain import denoise, last_predictions
from whylens.diffusion.sampler import Sampler
from whylens.errors import UsageError
from whylens.guidance.descent import Descent
from whylens.guidance.memory import Memory
from whylens.guidance.objectives import Objective
from whylens.guidance.problems import Problems
from whylens.guidance.regularisers import Regularisers
from whylens.guidance.settings import GuidanceSettings, OptimiserSettings
from whylens.guidance.views import Views

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
        [b], of the images as they are, without views.
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
    if memory is not None or settings.chain.segment == "auto":
        memory = memory or Memory(sampler)
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
            segment = 1
        else:
            at_once = math.ceil(len(rows) / 2)
            logger.warning(
                "out of memory with %d problems at once; going on with %d", len(rows), at_once
            )
        waiting = [rows, *waiting]
        if memory is not None:
            memory.most |= {"segment": 1} if len(rows) == 1 else {"problems": at_once}


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
    views = Views(
        problems.seeds.tolist(),
        cutouts=settings.views.cutouts,
        smallest=settings.views.smallest,
        noise=settings.views.noise,
        power=settings.views.power,
    )
    weights = torch.arange(1, settings.views.predictions + 1, device=sampler.device)
    weights = weights / weights.sum()
    failed: dict[int, str] = {}
    for step in range(settings.optimiser.steps + 1):
        # The chain, and the images that its last predictions decode to.
        variables = {name: problems.variables()[name].detach() for name in moved}
        with torch.enable_grad():
            for variable in variables.values():
                variable.requires_grad_(True)
            problems = problems.moved_to(variables)
            states = denoise(
                sampler,
                problems.latents,
                problems.conditioning,
                steps=chain.steps,
                guidance_scale=chain.guidance_scale,
                segment=segment,
                gradient_steps=chain.gradient_steps,
            )
            predictions = last_predictions(states, settings.views.predictions)
            *earlier, last = predictions
            images = [problems.shown(sampler.preview(latents)) for latents in earlier]
            images.append(problems.shown(sampler.decode(last)))
        # The objective at the image.
        shown = [image.detach() for image in images]
        losses, plain = objective.value_and_gradient(shown[-1])
        losses = losses + regularisers.values(predictions[-1], problems.variables()).to(losses)
        finite = losses.isfinite() & shown[-1].flatten(1).isfinite().all(1)
        failed |= _reasons(rows, finite, f"the image or its loss was not finite at step {step}")
        kept = finite.nonzero()[:, 0]
        yield State(step, _chosen(rows, kept), shown[-1][kept], losses[kept], failed)
        failed = {}
        going = finite & ~_finished(losses, settings.optimiser)
        if step == settings.optimiser.steps or not going.any():
            return
        gradients = [views.gradient(objective, image, rows) for image in shown[:-1]]
        gradients.append(views.gradient(objective, shown[-1], rows) if views.cutouts else plain)
        # Backward, from the images and from the latents.
        ends = [(i, w * g.to(i)) for w, g, i in zip(weights, gradients, images, strict=True)]
        if (pull := regularisers.at_latents(predictions[-1])) is not None:
            ends.append((predictions[-1], pull))
        outputs, pulls = zip(*ends, strict=True)
        slopes = dict(
            zip(moved, torch.autograd.grad(outputs, list(variables.values()), pulls), strict=True)
        )
        for name, gradient in regularisers.at_variables(problems.variables()).items():
            if name in slopes:
                slopes[name] = slopes[name] + gradient
        sound = torch.stack([g.flatten(1).isfinite().all(1) for g in slopes.values()]).all(0)
        reason = f"the gradient was not finite at step {step}"
        failed |= _reasons(rows, sound | ~going, reason)
        going = going & sound
        # One step of each problem's own optimiser.
        problems = problems.moved_to(descent.moved(step, variables, slopes))
        problems = replace(problems, latents=_with_norm(problems.latents, norms))
        if not going.all():
            left = going.nonzero()[:, 0]
            rows = _chosen(rows, left)
            problems, objective, norms = problems.select(left), objective.select(left), norms[left]
            descent.select(left)
            regularisers.select(left)
        if not rows:
            yield State(step + 1, [], shown[-1][:0], losses[:0], failed)
            return


def with_deltas(sampler: Sampler, problems: Problems, settings: GuidanceSettings) -> Problems:
    """The problems with deltas of zero [B, T, L, C] where the optimiser is to move some."""
    text, null_delta = problems.conditioning.text, problems.conditioning.null_delta
    nothing = text.new_zeros((len(text), settings.chain.steps, *text.shape[1:]))
    deltas = {}
    if settings.optimiser.text_factor:
        deltas["text_delta"] = nothing
    guided = sampler.asks_null(settings.chain.guidance_scale)
    if settings.optimiser.null_factor and guided and null_delta is None:
        deltas["null_delta"] = nothing.clone()
    return problems.moved_to(deltas)


def moved_variables(problems: Problems, settings: OptimiserSettings) -> dict[str, float]:
    """What moves, and its learning rate as a factor.

    Raises
    ------
    UsageError
        If steps are asked for and nothing is to move.
    """
    factors = {
        "latents": settings.latents_factor,
        "text_delta": settings.text_factor,
        "null_delta": settings.null_factor,
    }
    moved = {name: factors[name] for name in problems.variables() if factors[name] > 0}
    if settings.steps and not moved:
        raise UsageError(
            "nothing is left to optimise: the null text has no effect on a sampler that takes the "
            "guidance scale as an input; set optimiser.latents_factor or text_factor"
        )
    return moved


def _finished(losses: Tensor, settings: OptimiserSettings) -> Tensor:
    if settings.stop_below is None:
        return torch.zeros_like(losses, dtype=torch.bool)
    return losses < settings.stop_below


def _with_norm(latents: Tensor, norms: Tensor) -> Tensor:
    """Latents rescaled to the norm that each problem started with."""
    length = latents.flatten(1).norm(dim=1).clamp_min(1e-12)
    scaled: Tensor = latents * (norms / length).view(-1, 1, 1, 1)
    return scaled


def _reasons(rows: Sequence[int], good: Tensor, reason: str) -> dict[int, str]:
    return {rows[int(place)]: reason for place in (~good).nonzero()[:, 0]}


def _chosen(rows: Sequence[int], places: Tensor) -> list[int]:
    return [rows[place] for place in places.tolist()]
