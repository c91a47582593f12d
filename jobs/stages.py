"""How a stage runs: what is missing goes to a pool, with progress, and failures are recorded."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from whylens.cluster.placement import Placement
from whylens.cluster.pool import UnitFailed, WorkerPool
from whylens.cluster.progress import progress
from whylens.runs import Run

logger = logging.getLogger(__name__)


def run_units(
    run: Run,
    *,
    stage: str,
    table: str,
    units: Sequence[Any],
    worker: Callable[..., Any],
    arguments: Sequence[Any],
    placement: Placement,
) -> None:
    """Do the units whose part of `table` is missing; a unit has a `name`.

    The worker writes the part. A unit that fails is kept in the table `failed_units` with its
    reason; it has no part, so the next start tries it again.
    """
    done = set(run.table(table).units())
    missing = [unit for unit in units if unit.name not in done]
    with run.stage(stage):
        pool: WorkerPool[Any] = WorkerPool(worker, arguments, placement)
        results = progress(
            pool.map(missing), stage=stage, total=len(units), done=len(units) - len(missing)
        )
        for unit, result in results:
            if isinstance(result, UnitFailed):
                run.warn(f"{stage}: the unit {unit.name} failed: {result.reason}")
                row = {"stage": stage, "unit": unit.name, "reason": result.reason}
                run.table("failed_units").write(f"{stage}-{unit.name}", pa.Table.from_pylist([row]))
