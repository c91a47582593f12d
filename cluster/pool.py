"""A pool of plain actors: each holds what it loaded once, and works through units.

The worker that finishes a unit writes its part, so nothing finished is lost, whatever dies. A unit
whose worker died is tried again on a new one; a unit that raised is reported with its reason, and
the others go on.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from whylens import logs
from whylens.cluster.placement import Resources
from whylens.cluster.room import settled, sizes, told
from whylens.cluster.session import hired, start
from whylens.cluster.workers import Crew, UnitFailed, spawn
from whylens.errors import WhylensError

logger = logging.getLogger(__name__)

Unit = TypeVar("Unit")

# A unit that took down this many workers is given up: it would take down the next one too.
MAX_DEATHS = 2
SECONDS_BETWEEN_LINES = 30.0


@dataclass(frozen=True)
class _Died:
    """A worker was lost, with what it was doing."""

    reason: str


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
        self, make: Callable[..., Any], arguments: Sequence[Any], placement: Resources
    ) -> None:
        self._make, self._arguments, self._placement = make, tuple(arguments), placement

    def map(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, Any]]:
        """(unit, result or UnitFailed), in the order in which they finish.

        Raises
        ------
        WhylensError
            What a worker raised for the user: a bad name, a full disk. Or workers can't be loaded.
        UsageError
            If the cluster has no room for as many workers as the placement asks for.
        """
        if not units:
            return
        ray = start()
        self._placement = settled(ray, self._placement)
        _, size = sizes(ray, self._placement, len(units))
        with hired(ray) as crew:
            yield from self._work_through(ray, crew, size, units)

    def _work_through(
        self, ray: Any, crew: Crew, size: int, units: Sequence[Unit]
    ) -> Iterator[tuple[Unit, Any]]:
        lost = (
            ray.exceptions.RayActorError,
            ray.exceptions.OutOfMemoryError,
            ray.exceptions.NodeDiedError,
        )
        waiting = list(reversed(units))
        deaths: dict[int, int] = {}
        deaths_at_loading = 0
        # Workers take units once they are loaded: one that the cluster has no room for holds up
        # none, and makes an autoscaling cluster grow.
        loading: dict[Any, Any] = {}
        running: dict[Any, tuple[Any, Unit]] = {}
        free: list[Any] = []
        booked: dict[Any, Resources] = {}
        # Sent once, however many workers there are.
        arguments = ray.put(self._arguments)

        def load(host: Any, books: Resources) -> None:
            booked[host] = books
            loading[host.load.remote(self._make, arguments, logs.current())] = host

        def replace(host: Any) -> None:
            ray.kill(host)
            books = booked.pop(host)
            load(spawn(ray, books), books)

        try:
            for host, books in crew.hire(ray, size, self._placement):
                load(host, books)
            while waiting or running:
                while waiting and free:
                    host, unit = free.pop(), waiting.pop()
                    running[host.work.remote(unit)] = (host, unit)
                ready, _ = ray.wait([*running, *loading], timeout=SECONDS_BETWEEN_LINES)
                if not ready:
                    if not running:
                        logger.info(
                            "waiting for a worker to start, or for room for one of %s",
                            told(self._placement),
                        )
                    continue
                (reference,) = ready
                try:
                    result = ray.get(reference)
                except lost as error:
                    result = _Died(_first_line(error))
                if isinstance(result, WhylensError):
                    raise result
                if reference in loading:
                    host = loading.pop(reference)
                    if isinstance(result, _Died):
                        deaths_at_loading += 1
                        if deaths_at_loading >= MAX_DEATHS * size:
                            raise WhylensError(f"workers die while they load: {result.reason}")
                        replace(host)
                    else:
                        free.append(host)
                    continue
                host, unit = running.pop(reference)
                if not isinstance(result, _Died):
                    free.append(host)
                    yield unit, result
                    continue
                replace(host)
                died = deaths[id(unit)] = deaths.get(id(unit), 0) + 1
                if died < MAX_DEATHS:
                    logger.warning("a worker died; its unit is tried again on a new one")
                    waiting.append(unit)
                else:
                    yield unit, UnitFailed(f"{died} workers died of it: {result.reason}")
            crew.keep((host, booked[host]) for host in free)
            free = []
        finally:
            for host in [*free, *loading.values(), *(host for host, _ in running.values())]:
                ray.kill(host)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
