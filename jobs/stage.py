"""Working through a stage's units with a pool of workers that write their own parts.

A unit that fails is tried again, then piece by piece. Every failed attempt is a row of the table
`failures`; what stays undone ends the job, unless its spec tolerates that.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, Field

from whylens import logs
from whylens.cluster.placement import Resources
from whylens.cluster.workers import Named, UnitFailed, arithmetic
from whylens.errors import UnfinishedError
from whylens.jobs.columns import columns
from whylens.jobs.words import amount
from whylens.runs import Run

logger = logging.getLogger(__name__)

# Of `batch: auto`. Named units must not depend on the machine that does them.
AUTO_BATCH = 16

FAILURES = "failures"
FAILURES_SCHEMA = pa.schema(
    [
        *columns(pa.string(), "stage", "unit"),
        # 1 is the first; of the run's present start.
        ("attempt", pa.int32()),
        *columns(pa.string(), "host", "reason", "traceback", "time"),
    ]
)

Unit = TypeVar("Unit", bound=Named)
Task = TypeVar("Task")


class Batch(NamedTuple, Generic[Task]):
    """A unit: tasks that are done together, and written as one part."""

    name: str
    tasks: tuple[Task, ...]

    @property
    def pieces(self) -> list[Batch[Task]]:
        """Each task as a unit of its own, with a part of its own."""
        return [Batch(f"{self.name}-{place:03d}", (task,)) for place, task in enumerate(self.tasks)]


BatchSize = Annotated[
    Annotated[int, Field(ge=1)] | Literal["auto"],
    Field(
        description="Images of a unit, which are optimised together as far as memory allows. auto: "
        f"{AUTO_BATCH}, of which a worker takes as many at once as fit."
    ),
]


def in_batches(
    tasks: Sequence[Task], size: int | Literal["auto"], spec: BaseModel, *made_from: Any
) -> list[Batch[Task]]:
    """Cut tasks into batches, each with a name that tells it from those of any other spec, of other
    tasks, and from what was made from something else.

    So a run that is gone on with does what is missing, what was made of tasks that have changed
    since does not pass for done, and the same stage with other settings adds to what is there.
    """
    size = AUTO_BATCH if size == "auto" else size
    cut = [tuple(tasks[start : start + size]) for start in range(0, len(tasks), size)]
    return [
        Batch(f"{mark(spec)}-{place:05d}-{mark(some, *made_from)}", some)
        for place, some in enumerate(cut)
    ]


def mark(*told: Any) -> str:
    """Eight hexadecimal digits that tell values apart: tasks, settings, what a unit is made from.

    Settings that are their defaults do not count, so that a later version may have more of them.
    """
    return hashlib.sha256(json.dumps(told, default=_plain).encode()).hexdigest()[:8]


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_defaults=True)
    if isinstance(value, np.ndarray):
        value = value.tobytes()
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    return value.item() if isinstance(value, np.generic) else vars(value)


def drop_others(
    run: Run, units: Sequence[Named], *tables: str, spec: BaseModel | None = None
) -> None:
    """Remove what tables hold of units that are none of these: made from what has changed since.

    A stage whose units follow from results begins with it: where some of those were missing, and
    tolerated, the run has held since what it would not have made of all. Where a spec is given,
    batches of others stay.
    """
    wanted = {piece.name for unit in units for piece in (unit, *_pieces(unit))}
    for table in map(run.table, tables):
        stale = [name for name in table.units() if name not in wanted]
        if spec is not None:
            stale = [name for name in stale if mark(spec) in name.split("-")]
        if stale:
            logger.info("%s: %s of earlier results removed", table.name, amount(len(stale), "part"))
        for name in stale:
            table.remove(name)


def work_through(
    run: Run,
    stage: str,
    units: Sequence[Unit],
    make: Callable[..., Any],
    arguments: Sequence[Any],
    placement: Resources,
) -> None:
    """Have workers `make(*arguments)` do the units of the table `stage` that have no part yet.

    Raises
    ------
    UnfinishedError
        As `do_missing`.
    """
    from whylens.cluster.pool import WorkerPool

    note_arithmetic(run, placement)
    do_missing(run, stage, units, WorkerPool[Unit](make, arguments, placement).map)


def note_arithmetic(run: Run, placement: Resources) -> None:
    """Keep with the run what its workers calculate in, where that is not float32 throughout."""
    if placement.gpus > 0:
        run.note_arithmetic(arithmetic())


def do_missing(
    run: Run,
    stage: str,
    units: Sequence[Unit],
    do: Callable[[Sequence[Unit]], Iterator[tuple[Unit, Any]]],
) -> None:
    """Have `do` (of a pool, or of a stream) do the units that have no part yet.

    A unit that fails is tried again as often as the run's spec says (`retries`), then, where it
    holds several tasks, each of them alone, so that one bad task does not lose the others.

    Raises
    ------
    UnfinishedError
        If more of the units stay undone than the spec tolerates (`tolerate`).
    """
    from whylens.cluster.progress import progress
    from whylens.cluster.session import dashboard

    run.note_ray(dashboard())
    spec = run.record()["spec"]
    there = set(run.table(stage).units())
    missing = [piece for unit in units for piece in _undone(unit, there)]
    total = len(missing) + sum(not _undone(unit, there) for unit in units)
    retried, given_up = 0, 0
    with run.stage(stage), logs.about(stage=stage):
        if not missing:
            logger.info("%s: all %d units were done before", stage, total)
            run.note_undone(stage, 0, total)
            return

        def tried(attempt: int, again: Sequence[Unit]) -> list[tuple[Unit, UnitFailed]]:
            """Those of the units that fail."""
            results = progress(
                do(again),
                stage=stage,
                total=total,
                done=total - len(again) - given_up,
                retried=retried,
                failed=lambda result: isinstance(result[1], UnitFailed),
                hear=run.hear,
            )
            return _failures(run, stage, attempt, results)

        failed = tried(1, missing)
        attempts = 1 + spec.get("retries", 0)
        for attempt in range(2, attempts + 1):
            if failed:
                logger.warning("%s: %s tried again", stage, amount(len(failed), "unit"))
                retried += len(failed)
                failed = tried(attempt, [unit for unit, _ in failed])
        if pieces := [piece for unit, _ in failed for piece in _pieces(unit)]:
            logger.warning("%s: %s tried one by one", stage, amount(len(pieces), "task"))
            whole = [(unit, failure) for unit, failure in failed if not _pieces(unit)]
            total += len(pieces) - (len(failed) - len(whole))
            retried, given_up = retried + len(pieces), len(whole)
            failed = whole + tried(attempts + 1, pieces)
        if run.storage.exists(memory_file(stage)):
            run.note_memory(stage, json.loads(run.storage.read(memory_file(stage))))
        _settle(run, stage, failed, total, spec.get("tolerate", 0.0))


def memory_file(stage: str) -> str:
    """Where a worker says what it held at once; the driver alone writes run.json."""
    return f"memory/{stage}.json"


def _pieces(unit: Unit) -> list[Unit]:
    """The tasks of a unit as units of their own; none of a unit that is one task."""
    pieces: list[Unit] = getattr(unit, "pieces", [])
    return pieces if len(pieces) > 1 else []


def _undone(unit: Unit, there: set[str]) -> list[Unit]:
    """What of a unit has no part yet: nothing, its other pieces where some have one, or all."""
    if unit.name in there:
        return []
    left = [piece for piece in _pieces(unit) if piece.name not in there]
    return [unit] if len(left) == len(_pieces(unit)) else left


def _failures(
    run: Run, stage: str, attempt: int, results: Iterable[tuple[Unit, Any]]
) -> list[tuple[Unit, UnitFailed]]:
    """The units that failed, each noted in the table of failures as soon as it is known."""
    failed = []
    for unit, result in results:
        if not isinstance(result, UnitFailed):
            continue
        failed.append((unit, result))
        logger.warning("%s: the unit %s failed: %s", stage, unit.name, result.reason)
        row = {
            "stage": stage,
            "unit": unit.name,
            "attempt": attempt,
            "host": result.host,
            "reason": result.reason,
            "traceback": result.traceback,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        part = f"{stage}-{unit.name}-{time.time_ns()}"
        run.table(FAILURES).write(part, pa.Table.from_pylist([row], schema=FAILURES_SCHEMA))
    return failed


def _settle(
    run: Run, stage: str, failed: Sequence[tuple[Unit, UnitFailed]], total: int, tolerate: float
) -> None:
    """Keep in run.json what stays undone of a stage; end the job where that is too much."""
    if not failed:
        run.note_undone(stage, 0, total)
        return
    ((reason, times),) = Counter(failure.reason for _, failure in failed).most_common(1)
    run.note_undone(stage, len(failed), total, reason)
    if len(failed) > tolerate * total:
        raise UnfinishedError(
            f"{stage}: {len(failed)} of {total} units failed, {times} of them with: {reason}. "
            f"The table {FAILURES} in {run.folder} holds every attempt. Mend it and start the same "
            "command again, which does only what is missing; --set tolerate=SHARE goes on without "
            "such units"
        )
