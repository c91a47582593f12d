"""A run: a folder with run.json and tables, in which nothing finished is ever done again."""

import io
import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from traceback import format_exception
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from whylens.errors import TERMINATED, UsageError, WhylensError
from whylens.runs.storage import Storage

logger = logging.getLogger(__name__)

FORMAT = 1
# Seconds between heartbeats, and after the last one until a driver is taken for dead.
BEAT, DEAD_AFTER = 15.0, 60.0
# Heartbeats are written beside what the job writes into run.json.
_UPDATING = threading.Lock()
_REPORTED = ("whylens", "torch", "diffusers", "transformers", "timm", "faiss-cpu", "ray", "pyarrow")


class Table:
    """A table: one Parquet part a unit; a unit is done if and only if its part is there."""

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage = storage
        self.name = name

    @property
    def url(self) -> str:
        """The folder of its run."""
        return self._storage.url

    def units(self) -> list[str]:
        """Names of the finished units, sorted."""
        names = self._storage.names(f"tables/{self.name}")
        return [n.removesuffix(".parquet") for n in names if n.endswith(".parquet")]

    def done(self, unit: str) -> bool:
        return self._storage.exists(self._part(unit))

    def write(self, unit: str, rows: pa.Table) -> None:
        """Write a unit's part, whole or not at all."""
        buffer = io.BytesIO()
        pq.write_table(rows, buffer, compression="zstd")
        self._storage.write(self._part(unit), buffer.getvalue())

    def read(
        self, columns: Sequence[str] | None = None, units: Sequence[str] | None = None
    ) -> pa.Table:
        """All parts by unit name, or those of some units, of the columns named.

        Raises
        ------
        UsageError
            If no part is there: the stage that writes the table has not run.
        """
        units = self.units() if units is None else units
        if not units:
            raise UsageError(
                f"the run {self._storage.url} has no table {self.name!r}: its stage has not run"
            )
        parts = [self.read_part(unit, columns) for unit in units]
        return pa.concat_tables(parts, promote_options="permissive")

    def read_part(self, unit: str, columns: Sequence[str] | None = None) -> pa.Table:
        """One part, and no more of its file than the columns named.

        Tables larger than the memory are read part by part.

        Raises
        ------
        WhylensError
            If the file is no whole Parquet file.
        """
        wanted = None if columns is None else list(columns)
        with self._storage.open(self._part(unit)) as file:
            try:
                return pq.read_table(file, columns=wanted)
            except pa.ArrowInvalid:
                self._check(unit, file)
                raise

    def _check(self, unit: str, file: Any) -> None:
        file.seek(0)
        try:
            pq.ParquetFile(file)
        except pa.ArrowInvalid as error:
            raise WhylensError(
                f"{self._storage.path(self._part(unit))} is damaged ({error}): remove it, and "
                "start the run's command again, which makes it anew"
            ) from error

    def _part(self, unit: str) -> str:
        return f"tables/{self.name}/{unit}.parquet"


class Run:
    """A run folder. Pickled to workers, which write their units' parts themselves."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.storage = Storage(folder)
        # How far the stage is that is worked on: it goes with what is written next.
        self._progress: dict[str, Any] = {}

    @classmethod
    def start(
        cls,
        folder: str,
        job: str,
        spec: Mapping[str, Any],
        deciding: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
    ) -> "Run":
        """Create a run, or go on with the one that is there if its spec is the same.

        `deciding` leaves of a spec what decides results: the rest may be another than it was.

        Raises
        ------
        UsageError
            If the folder holds another job or another spec (the first difference is named), can't
            be written to, or a driver that is alive works on it.
        """
        run = cls(folder)
        wanted = json.loads(json.dumps(spec))
        if run.storage.exists("run.json"):
            record = run.record()
            if record["job"] != job:
                raise UsageError(
                    f"{folder} holds a run of the job {record['job']!r}, not {job!r}: "
                    "name another folder with --out"
                )
            if told := at_work(record):
                raise UsageError(
                    f"{told} works on {folder}: wait for it or stop it, or name another folder "
                    "with --out"
                )
            difference = _first_difference(deciding(record["spec"]), deciding(wanted))
            if difference:
                raise UsageError(
                    f"{folder} holds a run with another spec: {difference}. "
                    "Name another folder with --out, or use the run's own settings"
                )
            run.storage.sweep()
            run._update(state="running", spec=wanted, versions=_versions())
            logger.info("going on with the run in %s", folder)
        else:
            record = {
                "format": FORMAT,
                "job": job,
                "spec": wanted,
                "state": "running",
                "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "versions": _versions(),
                "timings": {},
                "warnings": [],
            }
            run._write(record)
        return run

    @classmethod
    def open(cls, folder: str) -> "Run":
        """A run that is there, to read from.

        Raises
        ------
        UsageError
            If the folder holds none.
        """
        run = cls(folder)
        if not run.storage.exists("run.json"):
            raise UsageError(f"{folder} is not a run folder: it has no run.json")
        return run

    def table(self, name: str) -> Table:
        return Table(self.storage, name)

    def record(self) -> dict[str, Any]:
        """run.json.

        Raises
        ------
        UsageError
            If it can't be read.
        """
        try:
            record: Any = json.loads(self.storage.read("run.json"))
        except FileNotFoundError as error:
            raise UsageError(f"{self.folder} is not a run folder: it has no run.json") from error
        except ValueError as error:
            raise UsageError(f"{self.folder}/run.json is not JSON: {error}") from error
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise UsageError(
                f"{self.folder}/run.json is not a run's record of the format {FORMAT}, which this "
                "version of whylens reads"
            )
        return record

    def lacking(self) -> list[str]:
        """What is not done, by run.json: a sentence without a full stop for each stage."""
        return lacking(self.record())

    def warn(self, message: str) -> None:
        """Log a warning and keep it in run.json, once."""
        logger.warning(message)
        warnings = self.record()["warnings"]
        if message not in warnings:
            self._update(warnings=[*warnings, message])

    def note_arithmetic(self, words: str) -> None:
        """Keep in run.json what its workers calculate in."""
        if self.record().get("arithmetic") != words:
            self._update(arithmetic=words)

    def note_undone(self, stage: str, units: int, total: int, reason: str = "") -> None:
        """Keep in run.json how many of a stage's units have no part, and why most of them."""
        undone = dict(self.record().get("undone", {}))
        if units:
            undone[stage] = {"units": units, "of": total, "reason": reason}
        elif stage not in undone:
            return
        else:
            del undone[stage]
        self._update(undone=undone)

    def hear(self, progress: Mapping[str, Any]) -> None:
        """Keep how far a stage is, for run.json: written with the next heartbeat."""
        self._progress = {"progress": dict(progress)}

    def note_memory(self, stage: str, plan: Mapping[str, Any]) -> None:
        """Keep in run.json how much of a stage's batches was held at once, and why."""
        self._update(memory={**self.record().get("memory", {}), stage: dict(plan)})

    def finish(self) -> None:
        """Mark the run as finished, or as incomplete where units have no part."""
        self._update(state="incomplete" if self.record().get("undone") else "finished")

    @contextmanager
    def working(self) -> Iterator[None]:
        """Keep the state true while a job works on the run, and at its end.

        At the end it is finished or incomplete; failed after an error, with its message; stopped
        after Ctrl-C or SIGTERM. A heartbeat tells others that this process is alive.
        """
        self._update(driver={"host": socket.gethostname(), "pid": os.getpid()}, error=None)
        done = threading.Event()
        beating = threading.Thread(target=self._beat, args=(done,), daemon=True)
        beating.start()
        try:
            with _terminable():
                yield
        except BaseException as error:
            failed = isinstance(error, Exception)
            try:
                self._update(
                    state="failed" if failed else "stopped",
                    error=f"{type(error).__name__}: {error}" if failed else None,
                    traceback="".join(format_exception(error)) if failed else None,
                )
            except WhylensError as second:  # a full disk, say: not to hide what went wrong first
                logger.warning("the run could not be marked as ended: %s", second)
            raise
        else:
            self.finish()
        finally:
            done.set()
            beating.join()

    def _beat(self, done: threading.Event) -> None:
        while True:
            try:
                self._update(heartbeat=time.time())
            except WhylensError as error:
                logger.warning("no heartbeat: %s", error)
            if done.wait(BEAT):
                return

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage that comes to its end."""
        began = time.monotonic()
        yield
        timings = self.record()["timings"]
        spent = timings.get(name, 0.0) + time.monotonic() - began
        self._update(timings={**timings, name: round(spent, 2)})

    def _update(self, **values: Any) -> None:
        with _UPDATING:
            self._write({**self.record(), **self._progress, **values})

    def _write(self, record: Mapping[str, Any]) -> None:
        self.storage.write("run.json", (json.dumps(record, indent=2) + "\n").encode())


def at_work(record: Mapping[str, Any]) -> str | None:
    """Who works on a run, by its record: another process with a heartbeat; None if there is none.

    A process of this host that is gone works on nothing, whatever it said last.
    """
    driver, last = record.get("driver"), record.get("heartbeat")
    if record["state"] != "running" or not driver or not last:
        return None
    if time.time() - last > DEAD_AFTER:
        return None
    pid, host = driver["pid"], driver["host"]
    if host == socket.gethostname() and (pid == os.getpid() or not _alive(pid)):
        return None
    return f"process {pid} on {host}"


def lacking(record: Mapping[str, Any]) -> list[str]:
    """What a run has not done, by its record: a sentence without a full stop for each stage."""
    return [
        f"{stage} lacks {lack['units']} of {lack['of']} units, most of them for: {lack['reason']}"
        for stage, lack in record.get("undone", {}).items()
    ]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the process as Ctrl-C does: by an exception, with exit code 143."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: Any) -> None:
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _versions() -> dict[str, str]:
    found = {}
    for name in _REPORTED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _first_difference(there: Any, wanted: Any, where: str = "") -> str | None:
    if isinstance(there, dict) and isinstance(wanted, dict):
        for key in [*there, *(k for k in wanted if k not in there)]:
            name = f"{where}.{key}" if where else str(key)
            if key not in wanted:
                return f"{name} is {there[key]!r} there and not given here"
            if key not in there:
                return f"{name} is not given there and {wanted[key]!r} here"
            found = _first_difference(there[key], wanted[key], name)
            if found:
                return found
        return None
    return None if there == wanted else f"{where} is {there!r} there and {wanted!r} here"
