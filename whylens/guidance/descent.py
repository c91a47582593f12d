"""One step of each problem's own optimiser: its gradients in, its variables out."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from whylens.batch import beside, lengthened, sent
from whylens.diffusion.adam import Adam
from whylens.diffusion.sampler import Sampler
from whylens.errors import UsageError
from whylens.guidance.problems import Problems
from whylens.guidance.settings import GuidanceSettings, OptimiserSettings

# torch's own, of AdamW and of SGD as DiG-IN's code takes it.
WEIGHT_DECAY, MOMENTUM = 0.01, 0.9


class Descent:
    """The steps of a batch of problems, each with a state of its own.

    `factors` say what moves, and its learning rate as a factor of the settings'.
    """

    def __init__(self, settings: OptimiserSettings, factors: Mapping[str, float]) -> None:
        self.settings, self.factors = settings, factors
        relative = settings.relative_epsilon
        self.adam = Adam(epsilon=1e-20 if relative else 1e-8, relative_epsilon=relative)
        self.momentum: dict[str, Tensor] = {}

    def moved(
        self,
        steps: Sequence[int],
        variables: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """Variables [B, ...] after a step against gradients [B, ...], by name; steps [B] are how
        many each problem has taken."""
        settings = self.settings
        gradients = {name: self._bounded(gradient) for name, gradient in gradients.items()}
        if settings.kind == "sgd":
            directions = self._directions(gradients)
        else:
            directions = self.adam.directions(gradients)
        rates = torch.tensor(
            [
                [learning_rate(step, settings, self.factors[name]) for step in steps]
                for name in directions
            ],
            dtype=torch.float64,
        )
        rates = sent(rates, next(iter(directions.values())).device)
        moved = {}
        for (name, direction), own in zip(directions.items(), rates, strict=True):
            rate = beside(own, direction).to(direction)
            kept = 1 - rate * WEIGHT_DECAY if settings.kind == "adamw" else 1.0
            moved[name] = kept * variables[name].detach() - rate * direction
        return moved

    def select(self, rows: Tensor) -> None:
        """Keep the state of some problems."""
        self.adam.select(rows)
        self.momentum = {name: values[rows] for name, values in self.momentum.items()}

    def join(self, count: int) -> None:
        """More problems, behind those that are there, which have taken no step."""
        self.adam.join(count)
        self.momentum = {name: lengthened(values, count) for name, values in self.momentum.items()}

    def _directions(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        for name, gradient in gradients.items():
            before = self.momentum.get(name)
            self.momentum[name] = gradient if before is None else MOMENTUM * before + gradient
        return dict(self.momentum)

    def _bounded(self, gradient: Tensor) -> Tensor:
        """A variable's gradient, clipped, and of length one where the settings say so."""
        most, settings = self.settings.clip, self.settings
        if most is not None and settings.clipping == "clamp":
            gradient = gradient.clamp(-most, most)
        elif most is not None:
            # As torch.nn.utils.clip_grad_norm_ has it, for each problem.
            largest = beside(gradient.flatten(1).abs().amax(1), gradient)
            gradient = gradient * (most / (largest + 1e-6)).clamp_max(1.0)
        if settings.normalise:
            length = beside(gradient.flatten(1).norm(dim=1), gradient)
            gradient = gradient / length.clamp_min(torch.finfo(gradient.dtype).tiny)
        return gradient


def learning_rate(step: int, settings: OptimiserSettings, factor: float) -> float:
    """A variable's rate at a step; the cosine leads from its own to one that all have in common.

    eta_t = eta_T + (eta_0 - eta_T) (1 + cos(pi t / T)) / 2 (Loshchilov and Hutter 2017), eta_T at
    most eta_0: a rate never rises.
    """
    if not settings.cosine:
        return settings.learning_rate * factor
    last = min(settings.cosine_floor, factor)
    part = (1 + math.cos(math.pi * step / max(settings.steps, 1))) / 2
    return settings.learning_rate * (last + (factor - last) * part)


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
