"""Working through a stage's units with a pool of workers that write their own parts."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import BaseModel

from whylens.cluster.placement import Placement
from whylens.cluster.workers import Named, UnitFailed
from whylens.runs import Run

logger = logging.getLogger(__name__)


Unit = TypeVar("Unit", bound=Named)
Task = TypeVar("Task")


class Batch(NamedTuple, Generic[Task]):
    """A unit: tasks that are done together, and written as one part."""

    name: str
    tasks: tuple[Task, ...]


def in_batches(tasks: Sequence[Task], size: int, spec: BaseModel) -> list[Batch[Task]]:
    """Cut tasks into batches, each with a name that tells this spec from any other's.

    So a run that is gone on with does what is missing, and the same stage with other settings adds
    to what is there.
    """
    mark = hashlib.sha256(spec.model_dump_json().encode()).hexdigest()[:8]
    return [
        Batch(f"{mark}-{start // size:05d}", tuple(tasks[start : start + size]))
        for start in range(0, len(tasks), size)
    ]


def work_through(
    run: Run,
    stage: str,
    units: Sequence[Unit],
    make: Callable[..., Any],
    arguments: Sequence[Any],
    placement: Placement,
) -> None:
    """Have workers `make(*arguments)` do the units of the table `stage` that have no part yet.

    A unit that fails is a warning in run.json and is tried again when the run is started again.
    """
    from whylens.cluster.pool import WorkerPool

    do_missing(run, stage, units, WorkerPool[Unit](make, arguments, placement).map)


def do_missing(
    run: Run,
    stage: str,
    units: Sequence[Unit],
    do: Callable[[Sequence[Unit]], Iterator[tuple[Unit, Any]]],
) -> None:
    """Have `do` (of a pool, or of a stream) do the units that have no part yet."""
    from whylens.cluster.progress import progress

    there = set(run.table(stage).units())
    missing = [unit for unit in units if unit.name not in there]
    with run.stage(stage):
        if not missing:
            logger.info("%s: all %d units were done before", stage, len(units))
            return
        done = len(units) - len(missing)
        for unit, result in progress(do(missing), stage=stage, total=len(units), done=done):
            if isinstance(result, UnitFailed):
                run.warn(f"{stage}: the unit {unit.name} failed: {result.reason}")
