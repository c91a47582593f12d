"""How many problems fit in memory at once, and how much of their chains: measured once, remembered.

What is held for backward is counted once, for one problem: a step of the chain (the U-Net's calls)
and a decoded image. Both grow with the batch, the first with the steps of a checkpoint segment,
the second with the predictions that are decoded. What does not fit waits until a place is free;
where memory runs out all the same, half as many are taken, and the size that fits is remembered:
the next unit begins with it. No result depends on any of this.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from whylens.compiled import uncompiled
from whylens.diffusion.chain import rooted
from whylens.diffusion.conditioning import condition
from whylens.diffusion.held import free_bytes, held_by
from whylens.diffusion.inversion import Inversion, invert_images
from whylens.diffusion.sampler import Sampler
from whylens.diffusion.schedules import schedule
from whylens.guidance.settings import GuidanceSettings

logger = logging.getLogger(__name__)

# Of what is free, for what is not counted: the classifier's graph, and what an allocator can't use.
SPARED = 0.2
GIB = 2**30
Part = TypeVar("Part")


class Costs(NamedTuple):
    """Bytes that one problem holds: a step of its chain, a decoded image, and work beside them."""

    step: int
    image: int
    beside: int


@dataclass(frozen=True)
class Plan:
    """What is held at once of a batch.

    problems, of how many; segment, steps of the chain (None: about twice the root of them); needed
    and free, bytes.
    """

    problems: int
    of: int
    segment: int | None
    needed: int
    free: int
    step: int
    image: int

    def __str__(self) -> str:
        steps = "about twice the root of the steps" if self.segment is None else str(self.segment)
        return (
            f"{self.problems} of {self.of} problems at once, segments of {steps}: about "
            f"{self.needed / GIB:.2f} GiB of {self.free / GIB:.2f} that are free (a step holds "
            f"{self.step / GIB:.3f} GiB a problem, a decoded image {self.image / GIB:.3f})"
        )

    @property
    def choice(self) -> tuple[int, int, int | None]:
        """What was chosen, and of how many problems."""
        return self.problems, self.of, self.segment

    @property
    def record(self) -> dict[str, Any]:
        """As it is kept in run.json."""
        return asdict(self)


class Memory:
    """What a sampler's device holds, and what has been found to fit there.

    Parameters
    ----------
    part
        The part of a GPU that is this process's, where workers share one.
    """

    def __init__(self, sampler: Sampler, *, part: float = 1.0) -> None:
        self.sampler, self.part = sampler, part
        self._costs: dict[bool, Costs] = {}
        # What ran out of memory once is not tried again: most of each kind of work at once.
        self.most: dict[str, int] = {}
        self.latest: Plan | None = None

    def costs(self, guidance_scale: float) -> Costs:
        """Counted at the first call for chains with, and for chains without a null text."""
        guided = self.sampler.asks_null(guidance_scale)
        if guided not in self._costs:
            self._costs[guided] = count(self.sampler, guided=guided)
        return self._costs[guided]

    def free(self) -> int:
        """Bytes that may be used now."""
        return int(free_bytes(self.sampler.device) * self.part * (1 - SPARED))

    def plan(self, problems: int, settings: GuidanceSettings) -> Plan:
        """As many problems at once as fit with the chain's segment.

        Of `segment: auto` it is the longest that fits with them.
        """
        chain, free = settings.chain, self.free()
        costs = self.costs(chain.guidance_scale)
        steps = min(chain.steps, chain.gradient_steps or chain.steps)
        fixed = chain.own_segment
        if "segment" in self.most:
            fixed = self.most["segment"]
        least = min(fixed or rooted(steps), steps)

        def images(count: int) -> int:
            # Of however many predictions; decoders are gone before others are made.
            return min(count, self.sampler.decoded_at_once) * costs.image

        def needed(count: int, segment: int) -> int:
            return count * segment * costs.step + images(count) + costs.beside

        most = min(problems, self.most.get("problems", problems))
        fitting = (count for count in range(most, 1, -1) if needed(count, least) <= free)
        at_once = next(fitting, 1)
        # In parts of about one size.
        at_once = math.ceil(problems / math.ceil(problems / at_once))
        segment = least
        if chain.segment == "auto" and fixed is None:
            left = free - costs.beside - images(at_once)
            segment = max(1, min(steps, left // max(at_once * costs.step, 1)))
        told = segment if chain.segment == "auto" else fixed
        total = needed(at_once, segment)
        plan = Plan(at_once, problems, told, total, free, costs.step, costs.image)
        if self.latest is None or plan.choice != self.latest.choice:
            logger.info("memory: %s", plan)
        self.latest = plan
        return plan

    def in_parts(
        self, kind: str, total: int, each: int, do: Callable[[Tensor], Part]
    ) -> Iterator[Part]:
        """`do` of rows [b] of a batch of `total`, in turn, as many at once as fit.

        `each` are the bytes that one row holds. Where memory runs out with several rows, they are
        halved, and no more are taken again for this kind of work.

        Raises
        ------
        torch.OutOfMemoryError
            If it runs out with one.
        """
        waiting = [torch.arange(total)]
        while waiting:
            rows = waiting.pop()
            most = self.most.get(kind, total)
            if each:
                most = max(1, min(most, self.free() // each))
            if len(rows) > most:
                waiting += reversed(rows.tensor_split(math.ceil(len(rows) / most)))
                continue
            try:
                done = do(rows)
            except torch.OutOfMemoryError:
                if len(rows) == 1:
                    raise
            else:
                yield done
                continue
            self.ran_out(kind, len(rows))
            waiting.append(rows)

    def ran_out(self, kind: str, number: int) -> None:
        """Memory was too small for so many at once: half of them are tried from now on."""
        self.most[kind] = math.ceil(number / 2)
        logger.warning(
            "out of memory with %d %s at once; going on with %d", number, kind, self.most[kind]
        )


def inverted(
    sampler: Sampler,
    images: Tensor,
    prompts: Sequence[str],
    settings: GuidanceSettings,
    memory: Memory | None = None,
) -> Inversion:
    """As `invert_images`, of images [B, 3, S, S], as many at once as fit in memory."""
    memory = memory or Memory(sampler)
    how, each = settings.inverting, 0
    if how["encoder_steps"]:
        each = memory.costs(how["guidance_scale"]).image
    if how["kind"] == "null_text":
        each = max(each, memory.costs(how["guidance_scale"]).step)

    def some(rows: Tensor) -> Inversion:
        own = [prompts[row] for row in rows.tolist()]
        return invert_images(sampler, images[rows.to(images.device)], own, **how)

    parts = list(memory.in_parts("inversions", len(images), each, some))
    return Inversion.cat(parts)


def count(sampler: Sampler, *, guided: bool) -> Costs:
    """What one problem holds for backward, from one call of each network."""
    rows = 2 if guided else 1
    own = condition(sampler, ["a photograph"])
    text = own.text.expand(rows, -1, -1)
    pooled = None if own.pooled is None else own.pooled.expand(rows, -1)
    latents = sampler.initial_latents([0])
    time = schedule(sampler, 1)[0].time

    def step() -> Tensor:
        # Deltas of the text are differentiated, too: keys and values are kept for them.
        there = text.detach().clone().requires_grad_()
        both = latents.expand(rows, -1, -1, -1).detach().clone().requires_grad_()
        return sampler.predict(both, time, there, pooled)

    # Uncompiled, which holds no less: nothing is to be compiled for this one call.
    with uncompiled():
        chain = held_by(step, [sampler.denoiser])
        image = held_by(
            lambda: sampler.decode(latents.detach().clone().requires_grad_()), [sampler.vae]
        )
    beside = max(chain.peak - chain.kept, image.peak - image.kept)
    return Costs(chain.kept, image.kept, beside)
