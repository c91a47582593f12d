"""One training loop for every planted network: seeded, logged, restartable, averaged."""

import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

Loss = Callable[[int, torch.Generator], Tensor]
"""(step, generator seeded for that step) -> scalar loss."""


@dataclass(frozen=True)
class Schedule:
    """Steps and learning rate: a linear warm-up, a plateau, a linear descent over the last part.

    The plateau makes `steps` safe to change between restarts.
    """

    steps: int
    learning_rate: float
    warmup: int = 100
    descent: float = 0.3
    weight_decay: float = 0.01
    average: float = 0.999
    seed: int = 0

    def rate(self, step: int) -> float:
        """The learning rate at a step."""
        down = self.steps * self.descent
        return self.learning_rate * min(
            1.0, (step + 1) / self.warmup, max(0.02, (self.steps - step) / max(down, 1.0))
        )


def fit(
    name: str,
    network: nn.Module,
    loss: Loss,
    schedule: Schedule,
    folder: Path,
    *,
    checkpoint_seconds: float = 60.0,
) -> nn.Module:
    """Train `network` in place until `schedule.steps`; it ends with its averaged weights.

    A checkpoint `<folder>/<name>.pt` is written about once a minute; where one is there, training
    goes on from it, with the same batches as an undisturbed run. The log is
    `<folder>/<name>.jsonl`, one line for every hundred steps.

    Raises
    ------
    FloatingPointError
        If the loss stops being finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / f"{name}.pt"
    optimiser = torch.optim.AdamW(
        network.parameters(),
        lr=schedule.learning_rate,
        betas=(0.9, 0.99),
        weight_decay=schedule.weight_decay,
        fused=True,
    )
    averaged = {k: v.detach().clone() for k, v in network.state_dict().items()}
    start = 0
    if checkpoint.exists():
        kept = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(kept["network"])
        optimiser.load_state_dict(kept["optimiser"])
        averaged, start = kept["averaged"], int(kept["step"])
        logger.info("%s: going on from step %d", name, start)
    network.train()
    generator = torch.Generator()
    began = saved = time.monotonic()
    total, count = 0.0, 0
    for step in range(start, schedule.steps):
        generator.manual_seed(schedule.seed * 1_000_003 + step)
        torch.manual_seed(schedule.seed * 1_000_003 + step)
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate(step)
        value = loss(step, generator)
        optimiser.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        _average(averaged, network, min(schedule.average, (1 + step) / (10 + step)))
        total, count = total + float(value.detach()), count + 1
        if not math.isfinite(total):
            raise FloatingPointError(f"{name}: the loss is not finite at step {step}")
        if (step + 1) % 100 == 0 or step + 1 == schedule.steps:
            seconds = time.monotonic() - began
            line = {"step": step + 1, "loss": round(total / count, 6), "seconds": round(seconds, 1)}
            with (folder / f"{name}.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            logger.info(
                "%s: step %d of %d, loss %.5f", name, step + 1, schedule.steps, total / count
            )
            total, count = 0.0, 0
        if time.monotonic() - saved > checkpoint_seconds or step + 1 == schedule.steps:
            state = {
                "network": network.state_dict(),
                "optimiser": optimiser.state_dict(),
                "averaged": averaged,
                "step": step + 1,
            }
            aside = checkpoint.with_suffix(".tmp")
            torch.save(state, aside)
            aside.replace(checkpoint)
            saved = time.monotonic()
    network.load_state_dict(averaged)
    return network.eval()


def _average(averaged: dict[str, Tensor], network: nn.Module, decay: float) -> None:
    for key, value in network.state_dict().items():
        if value.is_floating_point():
            averaged[key].lerp_(value.detach(), 1 - decay)
        else:
            averaged[key].copy_(value)
