"""A stream of units through Ray Data: prepared on CPU cores, finished by workers on the device.

Preparing (decoding) runs ahead of the workers as far as Ray's object store has room, so that the
device does not wait and memory stays bounded, on one machine or many. A unit is one row that goes
to one worker, which writes its part: Ray Data's own checkpoints lose what is computed and not yet
written. Failures read as in `whylens.cluster.pool`: a unit that raised is reported with its reason,
and the others go on. A worker that dies takes along the units that wait for it; what does not come
back is done by a pool, one unit a worker, so that only the guilty one is given up.
"""

from __future__ import annotations

import logging
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from whylens import logs
from whylens.cluster.placement import Resources
from whylens.cluster.pool import WorkerPool
from whylens.cluster.room import cores, settled, sizes
from whylens.cluster.session import hired, start
from whylens.cluster.workers import Host, Named, UnitFailed, environment
from whylens.errors import WhylensError

logger = logging.getLogger(__name__)

# Of a worker without a GPU: tasks that prepare for it, and the share of its cores that each takes.
PREPARING_TASKS = 2
PREPARING_SHARE = 0.125
# Of Ray Data, modules whose warnings are of our own settings: no bars, and CPUs beside GPUs.
NOISE = ("progress", "execution.operators.map_operator")
# Each is a block of Ray Data's, of which the driver keeps account.
UNITS_AT_ONCE = 20_000
# Two calls at a time in a worker: one computes while the other's part is written.
CALLS = 2


Unit = TypeVar("Unit", bound=Named)


class Stream(Generic[Unit]):
    """Workers `make(*arguments)`, each called with what `prepare` made of a unit.

    Parameters
    ----------
    prepare
        A picklable function of a unit that returns an Arrow table.
    make, arguments
        A picklable class (or function) whose result is called with such a table, by two threads.
    placement
        How many workers, with which resources; preparing has cores of its own (`cores_booked`).
    """

    def __init__(
        self,
        prepare: Callable[[Unit], pa.Table],
        make: Callable[..., Any],
        arguments: Sequence[Any],
        placement: Resources,
    ) -> None:
        self._prepare, self._placement = prepare, placement
        self._make, self._arguments = make, tuple(arguments)

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
        now, most = sizes(ray, self._placement, len(units))
        with hired(ray) as crew:
            crew.dismiss(ray)
            spare = cores(ray) - now * self._placement.num_cpus
            booked = cores_booked(self._placement, spare / max(1, now))
            for first in range(0, len(units), UNITS_AT_ONCE):
                part = units[first : first + UNITS_AT_ONCE]
                yield from self._results(self._pipeline(part, now, most, booked), part)

    def _results(self, pipeline: Any, units: Sequence[Unit]) -> Iterator[tuple[Unit, Any]]:
        waiting = {unit.name: unit for unit in units}
        batches = pipeline.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
        for batch in batches:
            for name, result in zip(*batch.select(["name", "result"]).columns, strict=True):
                found = pickle.loads(result.as_py())
                if isinstance(found, WhylensError):
                    raise found
                yield waiting.pop(name.as_py()), found
        if waiting:
            logger.warning("workers died; %d units are tried again one by one", len(waiting))
            again = (self._prepare, self._make, self._arguments)
            yield from WorkerPool[Unit](Both, again, self._placement).map(list(waiting.values()))

    def _pipeline(self, units: Sequence[Unit], now: int, most: int, booked: CoresBooked) -> Any:
        import ray.data as rd

        # It tells plans and pools; progress is told here. Its warnings say what it waits for.
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        for module in NOISE:
            logging.getLogger(f"ray.data._internal.{module}").setLevel(logging.ERROR)
        context = rd.DataContext.get_current().copy()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = False
        context.max_errored_blocks = -1  # a lost unit is reported; the others go on
        on_gpu = self._placement.gpus > 0
        with rd.DataContext.current(context), warnings.catch_warnings():
            # Ray renames its options in 2.64; to limit retries there is no other way in 2.60.
            warnings.simplefilter("ignore")
            rows = rd.from_blocks([_row(unit.name, unit) for unit in units])
            prepared = rows.map_batches(
                _Preparing(self._prepare),
                batch_size=None,
                batch_format="pyarrow",
                zero_copy_batch=True,
                num_cpus=booked.preparing,
                compute=rd.TaskPoolStrategy(
                    None if on_gpu else min(PREPARING_TASKS * most, len(units))
                ),
            )
            return prepared.map_batches(
                _Finishing,
                fn_constructor_args=(self._make, self._arguments, logs.current()),
                # A block is one row; Ray wants the size said where GPUs are asked for.
                batch_size=1,
                batch_format="pyarrow",
                zero_copy_batch=True,
                **(self._placement.options | {"num_cpus": booked.worker}),
                compute=rd.ActorPoolStrategy(
                    min_size=max(1, now),
                    max_size=most,
                    max_concurrent_calls_per_actor=CALLS,
                    enable_true_multi_threading=True,
                ),
                runtime_env=environment(self._placement),
                ray_remote_args_fn=partial(dict, max_task_retries=1),
            )


class Both(Generic[Unit]):
    """A worker of a pool that does what a stream does, one after the other."""

    def __init__(
        self,
        prepare: Callable[[Unit], pa.Table],
        make: Callable[..., Any],
        arguments: Sequence[Any],
    ) -> None:
        self._prepare, self._worker = prepare, make(*arguments)

    def __call__(self, unit: Unit) -> Any:
        """Prepare the unit and finish it."""
        return self._worker(self._prepare(unit))


class _Preparing:
    """The function that Ray Data's tasks call with one row: a pickled unit."""

    def __init__(self, prepare: Callable[[Any], pa.Table]) -> None:
        self._prepare = prepare

    def __call__(self, row: pa.Table) -> pa.Table:
        try:
            table = self._prepare(pickle.loads(row["unit"][0].as_py()))
        except WhylensError as error:
            return _prepared(row, failed=error)
        except Exception as error:
            logger.exception("a unit could not be prepared")
            return _prepared(row, failed=UnitFailed.by(error))
        return _prepared(row, table)


class _Finishing:
    """An actor of Ray Data's pool: a host whose worker is called with prepared tables."""

    def __init__(
        self, make: Callable[..., Any], arguments: Sequence[Any], about: Mapping[str, str]
    ) -> None:
        self._host = Host()
        self._refused = self._host.load(make, arguments, about)

    def __call__(self, row: pa.Table) -> pa.Table:
        failed = row["failed"][0].as_py()
        if failed is not None:
            return _result(row, failed)
        if self._refused is not None:
            return _result(row, _dumps(self._refused))
        # The table lies in Ray's shared memory and is not copied.
        table = pa.ipc.open_stream(row["table"][0].as_buffer()).read_all()
        return _result(row, _dumps(self._host.work(table)))


class CoresBooked(NamedTuple):
    """By a worker, and by a task that prepares a unit."""

    worker: float
    preparing: float


def cores_booked(placement: Resources, spare: float) -> CoresBooked:
    """Cores that are booked so that, whatever workers hold, something is left to prepare with.

    `spare` is how many cores there are for each worker beside its own. Without a GPU a worker and
    what is prepared for it share its cores: three quarters, and two tasks of an eighth each. With a
    GPU preparing has the spare cores; where there is less than one a worker, the worker gives up
    one of its own, or half of its only one.
    """
    cores = placement.num_cpus
    if placement.gpus == 0:
        share = PREPARING_SHARE * cores
        return CoresBooked(cores - PREPARING_TASKS * share, share)
    if spare >= 1:
        return CoresBooked(cores, 1)
    given = min(1.0, cores / 2)
    return CoresBooked(cores - given, given)


def _dumps(value: Any) -> bytes:
    from ray import cloudpickle

    content: bytes = cloudpickle.dumps(value)
    return content


def _row(name: str, unit: Any) -> pa.Table:
    return pa.table({"name": [name], "unit": pa.array([_dumps(unit)], pa.large_binary())})


def _prepared(row: pa.Table, table: pa.Table | None = None, failed: Any = None) -> pa.Table:
    sink = pa.BufferOutputStream()
    if table is not None:
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
    content = sink.getvalue()
    offsets = pa.py_buffer(np.asarray([0, content.size], dtype=np.int64))
    return pa.table(
        {
            "name": row["name"],
            "table": pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, content]),
            "failed": pa.array([None if failed is None else _dumps(failed)], pa.binary()),
        }
    )


def _result(row: pa.Table, result: bytes) -> pa.Table:
    return pa.table({"name": row["name"], "result": pa.array([result], pa.binary())})
