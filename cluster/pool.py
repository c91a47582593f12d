"""A pool of plain actors: each holds what it loaded once, and works through units.

The worker that finishes a unit writes its part, so nothing finished is lost, whatever dies. A unit
whose worker died is tried again on a new one; a unit that raised is reported with its reason, and
the others go on.
"""

import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from whylens.cluster.placement import Placement
from whylens.cluster.session import start
from whylens.errors import UsageError, WhylensError

logger = logging.getLogger(__name__)

Unit = TypeVar("Unit")

# A unit that took down this many workers is given up: it would take down the next one too.
MAX_DEATHS = 2


@dataclass(frozen=True)
class UnitFailed:
    """Why a unit has no part."""

    reason: str


class _Actor:
    """Runs one worker object; errors that the user should see come back as values."""

    def __init__(self, make: Callable[..., Any], arguments: Sequence[Any], threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._error: WhylensError | None = None
        try:
            self._worker = make(*arguments)
        except WhylensError as error:
            self._error = error

    def work(self, unit: Any) -> Any:
        if self._error is not None:
            return self._error
        try:
            return self._worker(unit)
        except WhylensError as error:
            return error
        except Exception as error:
            logger.exception("a unit failed")
            return UnitFailed(f"{type(error).__name__}: {error}")


class WorkerPool(Generic[Unit]):
    """Workers `make(*arguments)`, each called with units.

    Parameters
    ----------
    make, arguments
        A picklable class (or function) whose result is called with a unit.
    placement
        How many workers, with which resources.
    """

    def __init__(
        self, make: Callable[..., Any], arguments: Sequence[Any], placement: Placement
    ) -> None:
        self._make, self._arguments, self._placement = make, tuple(arguments), placement

    def map(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, Any]]:
        """(unit, result or UnitFailed), in the order in which they finish.

        Raises
        ------
        WhylensError
            What a worker raised for the user: a bad name, a full disk.
        """
        if not units:
            return
        ray = start()
        size = self._size(ray, len(units))
        waiting = list(reversed(units))
        deaths: dict[int, int] = {}
        actors = [self._spawn(ray) for _ in range(size)]
        running: dict[Any, tuple[Any, Unit]] = {}
        try:
            for actor in actors:
                if waiting:
                    unit = waiting.pop()
                    running[actor.work.remote(unit)] = (actor, unit)
            while running:
                ready, _ = ray.wait(list(running), num_returns=1)
                actor, unit = running.pop(ready[0])
                try:
                    result = ray.get(ready[0])
                except ray.exceptions.RayActorError as error:
                    actors.remove(actor)
                    actor = self._spawn(ray)
                    actors.append(actor)
                    died = deaths[id(unit)] = deaths.get(id(unit), 0) + 1
                    if died < MAX_DEATHS:
                        logger.warning("a worker died; its unit is tried again on a new one")
                        waiting.append(unit)
                    else:
                        yield unit, UnitFailed(f"{died} workers died of it: {_first_line(error)}")
                else:
                    if isinstance(result, WhylensError):
                        raise result
                    yield unit, result
                if waiting:
                    following = waiting.pop()
                    running[actor.work.remote(following)] = (actor, following)
        finally:
            for actor in actors:
                ray.kill(actor)

    def _size(self, ray: Any, units: int) -> int:
        fewest, most = self._placement.workers
        there = ray.cluster_resources()
        room = math.inf
        for name, each in (("CPU", self._placement.num_cpus), ("GPU", self._placement.num_gpus)):
            if each > 0:
                room = min(room, there.get(name, 0) / each)
        if room < fewest:
            raise UsageError(
                f"the cluster has room for {int(room)} workers of {self._placement.num_cpus:g} "
                f"CPUs and {self._placement.num_gpus:g} GPUs, but {fewest} are asked for"
            )
        return max(1, min(most, int(room), units))

    def _spawn(self, ray: Any) -> Any:
        threads = max(1, int(self._placement.num_cpus))
        remote = ray.remote(_Actor).options(
            num_cpus=self._placement.num_cpus,
            num_gpus=self._placement.num_gpus,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(threads), **_offline()}},
        )
        return remote.remote(self._make, self._arguments, threads)


def _offline() -> dict[str, str]:
    """Settings of the driver that workers need to see."""
    return {k: os.environ[k] for k in ("HF_HUB_OFFLINE", "HF_HOME") if k in os.environ}


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
