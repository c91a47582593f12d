"""Optimisation steps, timed: whylens' own and the reference loop's."""

import gc
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from whylens.bench.setups import PROMPT, Setup
from whylens.classifiers import Classifier
from whylens.diffusion.sampler import Sampler
from whylens.guidance.baselines.reference import reference_loop
from whylens.guidance.objectives import TargetClass
from whylens.guidance.optimiser import optimise
from whylens.guidance.problems import Problems
from whylens.timing import now


@dataclass(frozen=True)
class Steps:
    """Optimisation steps of a batch, after a first one that is not counted.

    first
        Seconds of that first one, in which kernels are compiled.
    seconds
        Of each other step.
    batch
        Problems in it: fewer than were asked for where memory was too small for them.
    calls
        Forward calls of the U-Net on the whole batch in one step, those for backward included.
    peak_gib
        The device's memory at its fullest, weights included; None on a CPU.
    finite
        Whether all losses were finite.
    """

    first: float
    seconds: list[float]
    batch: int
    calls: float
    peak_gib: float | None
    finite: bool

    @property
    def best(self) -> float:
        """Seconds of the fastest step."""
        return min(self.seconds)


def time_steps(sampler: Sampler, classifier: Classifier, setup: Setup, count: int) -> Steps:
    """Optimise a setup's batch for `count` steps and one before them."""
    device, batch = sampler.device, setup.batch
    targets = torch.arange(batch, device=device) % len(classifier.class_names)
    problems = Problems.from_prompts(sampler, [PROMPT] * batch, range(batch))
    forget(device)
    rows = _Counted(sampler)
    stamps: list[tuple[int, int, float, int]] = []  # step, problems, when, rows of the U-Net
    finite = True
    # The last state is only looked at, no step begins there.
    settings = setup.timed(count + 2)
    with rows:
        for state in optimise(sampler, problems, TargetClass(classifier, targets), settings):
            if state.step < settings.optimiser.steps:
                stamps.append((state.step, len(state.rows), now(device), rows.seen))
            finite = finite and bool(state.losses.isfinite().all()) and not state.failed
    # Where memory ran out there are several beginnings: the last is one of a batch that fitted.
    begun = max(place for place, stamp in enumerate(stamps) if stamp[0] == 0)
    first = stamps[begun + 1][2] - stamps[begun][2]
    stamps = stamps[begun + 1 :]
    held = stamps[0][1]
    guided = 2 if setup.guidance.chain.guidance_scale > 1 else 1
    return Steps(
        first=first,
        seconds=[b[2] - a[2] for a, b in pairwise(stamps)],
        batch=held,
        calls=(stamps[-1][3] - stamps[0][3]) / (len(stamps) - 1) / (guided * held),
        peak_gib=peak_gib(device),
        finite=finite,
    )


def time_reference(sampler: Sampler, classifier: Classifier, setup: Setup, count: int) -> Steps:
    """The same problem in the reference loop, alone."""
    forget(sampler.device)
    run = reference_loop(sampler, classifier, PROMPT, 0, 0, setup.timed(count + 1))
    finite = all(abs(loss) < float("inf") for loss in run.losses)
    steps = setup.guidance.chain.steps
    return Steps(run.seconds[0], run.seconds[1:], 1, 2.0 * steps, peak_gib(sampler.device), finite)


def forget(device: torch.device) -> None:
    """Free what nobody holds, and look at memory anew."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_gib(device: torch.device) -> float | None:
    """The most memory that was taken since `forget`, recorded calls' too; None on a CPU."""
    if device.type != "cuda":
        return None
    return torch.cuda.max_memory_reserved(device) / 2**30


class _Counted:
    """Counts the latents that go through a sampler's U-Net while it is entered."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler, self.seen = sampler, 0

    def __enter__(self) -> None:
        predict = self.sampler.predict

        def counting(latents: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
            self.seen += len(latents)
            return predict(latents, *arguments, **options)

        self.sampler.predict = counting  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        del self.sampler.predict
