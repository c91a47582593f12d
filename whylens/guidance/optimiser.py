"""The hot path: a batch of independent problems, optimised through the whole chain.

One step, top to bottom (`Optimisation.step`): chain -> image -> the objective's gradient at the
image -> backward through decoder and chain -> one step of each problem's optimiser (`Descent`). The
classifier's graph is gone before the chain's backward begins. ("DiG-IN", section 3; the reference
does one image at a time.)
"""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

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
from whylens.guidance.settings import GuidanceSettings
from whylens.guidance.state import State, states, told
from whylens.guidance.views import ViewGenerator

logger = logging.getLogger(__name__)


def optimise(
    sampler: Sampler,
    problems: Problems,
    objective: Objective,
    settings: GuidanceSettings,
    memory: Memory | None = None,
) -> Iterator[State]:
    """Optimise a batch of problems; each comes to what it would come to alone.

    A problem that is finished, or whose numbers stop being finite, gives its place to one that
    waits. `memory` says how many are optimised at once, and remembers what did not fit. Without it
    all are, and it is asked for `chain.segment` = auto only. Where the device's memory is too small
    all the same, half as many are (those under way begin again at step 0); a single problem is
    recomputed step by step.
    """
    segment, at_once = settings.chain.own_segment, len(problems)
    planned = memory is not None or settings.chain.segment == "auto"
    memory = memory or Memory(sampler)
    if planned:
        plan = memory.plan(len(problems), settings)
        segment, at_once = plan.segment, plan.problems
    waiting = list(range(len(problems)))
    under_way = Optimisation(sampler, problems, objective, settings)
    while waiting or under_way.rows:
        free = at_once - len(under_way.rows)
        rows, waiting = waiting[:free], waiting[free:]
        try:
            under_way.begin(rows)
            yield from under_way.step(segment)
            continue
        except torch.OutOfMemoryError:
            together = len(under_way.rows)
            if together == 1 and segment == 1:
                raise
        if together == 1:
            logger.warning("out of memory with one problem; going on with chain.segment = 1")
            segment = memory.most["segment"] = 1
        else:
            memory.ran_out("problems", together)
            at_once = memory.most["problems"]
        waiting = [*under_way.rows, *waiting]
        under_way = Optimisation(sampler, problems, objective, settings)


class Optimisation:
    """Problems of a batch that are under way, each at a step of its own.

    rows
        [b]: which of the batch's.
    steps
        [b]: how many steps each has taken.
    """

    problems: Problems
    wanted: Objective
    norms: Tensor
    sound: Tensor
    descent: Descent
    regularisers: Regularisers

    def __init__(
        self, sampler: Sampler, batch: Problems, objective: Objective, settings: GuidanceSettings
    ) -> None:
        """Of the problems `batch`, of which none is under way yet."""
        self.sampler, self.settings = sampler, settings
        self.batch, self.objective = batch, objective
        self.rows: list[int] = []
        self.steps: list[int] = []
        self.views = ViewGenerator(batch.seeds.tolist(), settings.views)
        count = settings.views.predictions
        self.weights = [place / sum(range(count + 1)) for place in range(1, count + 1)]

    def begin(self, rows: Sequence[int]) -> None:
        """Take more of the batch's problems under way, behind those that are."""
        if not rows:
            return
        sampler, settings, before = self.sampler, self.settings, len(self.rows)
        self.rows, self.steps = [*self.rows, *rows], [*self.steps, *(0 for _ in rows)]
        problems = self.batch.select(torch.tensor(rows)).with_noise(sampler, settings.chain.steps)
        problems = with_deltas(sampler, problems, settings)
        norms = problems.latents.flatten(1).norm(dim=1)
        sound = torch.ones(len(rows), dtype=torch.bool, device=sampler.device)
        regularisers = Regularisers(
            problems.variables(), problems.reference, settings.regularisers, problems.background
        )
        if before:
            problems = Problems.cat([self.problems, problems])
            norms, sound = torch.cat([self.norms, norms]), torch.cat([self.sound, sound])
            self.descent.join(len(rows))
            self.regularisers.join(regularisers)
        else:
            factors = moved_variables(problems, settings.optimiser)
            self.descent, self.regularisers = Descent(settings.optimiser, factors), regularisers
        self.problems, self.norms, self.sound = problems, norms, sound
        self.wanted = self.objective.select(torch.tensor(self.rows))

    def step(self, segment: int | None) -> Iterator[State]:
        """A step of all that are under way; those that are finished then no longer are."""
        sampler, settings = self.sampler, self.settings
        chain, views, most = settings.chain, settings.views, settings.optimiser.steps
        # The chain, and its last predictions. At a problem's last step it is only looked at.
        moving = min(self.steps) < most
        variables = {
            name: self.problems.variables()[name].detach().requires_grad_(moving)
            for name in self.descent.factors
        }
        problems = self.problems.moved_to(variables)
        with torch.set_grad_enabled(moving):
            denoised = denoise(
                sampler,
                problems.latents,
                problems.conditioning,
                steps=chain.steps,
                guidance_scale=chain.guidance_scale,
                segment=segment,
                gradient_steps=chain.gradient_steps,
            )
            *before, end = last_predictions(denoised, views.predictions if moving else 1)
        # Decoder and objective: the gradient at the latents.
        drawn = [
            self.views.draw(self.rows, sampler.device) if moving and views.cutouts else None
            for _ in range(views.predictions)
        ]
        seen = look(sampler, problems, self.wanted, end.detach(), drawn[-1], gradient=moving)
        penalties = self.regularisers.values(end, problems.variables())
        losses = seen.losses + penalties.to(seen.losses)
        # All that the host needs to know of a step, in one transfer.
        finite = losses.isfinite() & seen.images.flatten(1).isfinite().all(1)
        known = told(self.rows, self.steps, losses, finite, self.sound)
        yield from states(known, seen.images)
        enough = settings.optimiser.stop_below
        enough = -math.inf if enough is None else enough
        going = [
            place
            for place, one in enumerate(known)
            if one.failed is None and one.step < most and one.loss >= enough
        ]
        if not going:
            self.rows, self.steps = [], []
            return
        pulls = [
            look(
                sampler, problems, self.wanted, latents.detach(), own, decode=sampler.preview
            ).pulls
            for latents, own in zip(before, drawn[:-1], strict=True)
        ]
        # Backward, from the latents.
        pulls = [w * pull for w, pull in zip(self.weights, [*pulls, seen.pulls], strict=True)]
        if (pull := self.regularisers.at_latents(end)) is not None:
            pulls[-1] = pulls[-1] + pull
        slopes = dict(
            zip(
                variables,
                torch.autograd.grad([*before, end], list(variables.values()), pulls),
                strict=True,
            )
        )
        for name, gradient in self.regularisers.at_variables(problems.variables()).items():
            if name in slopes:
                slopes[name] = slopes[name] + gradient
        # One step of each problem's own optimiser; the next step tells whose gradient was unsound.
        self.sound = torch.stack([g.flatten(1).isfinite().all(1) for g in slopes.values()]).all(0)
        slopes = {name: g.where(beside(self.sound, g), 0) for name, g in slopes.items()}
        problems = problems.moved_to(self.descent.moved(self.steps, variables, slopes))
        self.problems = replace(problems, latents=_with_norm(problems.latents, self.norms))
        self.steps = [step + 1 for step in self.steps]
        self._keep(going)

    def _keep(self, places: Sequence[int]) -> None:
        """Go on with some of those under way."""
        if len(places) == len(self.rows):
            return
        self.rows = [self.rows[place] for place in places]
        self.steps = [self.steps[place] for place in places]
        left = torch.tensor(places, device=self.sampler.device)
        self.problems, self.wanted = self.problems.select(left), self.wanted.select(left)
        self.norms, self.sound = self.norms[left], self.sound[left]
        self.descent.select(left)
        self.regularisers.select(left)


def _with_norm(latents: Tensor, norms: Tensor) -> Tensor:
    """Latents rescaled to the norm that each problem started with."""
    length = latents.flatten(1).norm(dim=1).clamp_min(1e-12)
    return latents * beside(norms / length, latents)
