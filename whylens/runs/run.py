"""A run: a folder with run.json and tables, in which nothing finished is ever done again."""

import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from traceback import format_exception
from typing import Any

from whylens.errors import TERMINATED, UsageError, WhylensError
from whylens.runs.lease import BEAT, Lease, LeaseLostError, me, refuse, refuse_second, working
from whylens.runs.log import RunLog
from whylens.runs.storage import Storage
from whylens.runs.table import Table

logger = logging.getLogger(__name__)

FORMAT = 1
# How jobs name their units: a run that was begun with other names would have its rows twice.
UNITS = 2
# Heartbeats are written beside what the job writes into run.json.
_UPDATING = threading.Lock()
_REPORTED = ("whylens", "torch", "diffusers", "transformers", "timm", "faiss-cpu", "ray", "pyarrow")


class Run:
    """A run folder. Pickled to workers, which write their units' parts themselves."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.storage = Storage(folder)
        # How far the stage is that is worked on: it goes with what is written next.
        self._progress: dict[str, Any] = {}
        self._lost: LeaseLostError | None = None

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
            If the folder holds another job or another spec (the first difference is named), or a
            run that an earlier version began, can't be written to, or a driver that is alive works
            on it.
        """
        run = cls(folder)
        refuse_second(run.storage)
        wanted = json.loads(json.dumps(spec))
        if run.storage.exists("run.json"):
            record = run.record()
            if record["job"] != job:
                raise UsageError(
                    f"{folder} holds a run of the job {record['job']!r}, not {job!r}: "
                    "name another folder with --out"
                )
            if record.get("units", 1) != UNITS:
                raise UsageError(
                    f"{folder} holds a run that another version of whylens began, which names "
                    "units otherwise: it can be read, and not gone on with. Name another folder "
                    "with --out"
                )
            if record["state"] == "running":
                refuse(record, folder)
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
                "units": UNITS,
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

    def note_ray(self, dashboard: str | None) -> None:
        """Keep in run.json where the dashboard of the Ray is that works on it now."""
        if self.record().get("ray") != dashboard:
            self._update(ray=dashboard)

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

    def note_collection(self, tag: str, images: int, fingerprint: str) -> None:
        """Keep in run.json which images a run began with."""
        known = {"images": images, "fingerprint": fingerprint}
        self._update(collections={**self.record().get("collections", {}), tag: known})

    def note_memory(self, stage: str, plan: Mapping[str, Any]) -> None:
        """Keep in run.json how much of a stage's batches was held at once, and why."""
        self._update(memory={**self.record().get("memory", {}), stage: dict(plan)})

    def finish(self) -> None:
        """Mark the run as finished, or as incomplete where units have no part."""
        self._update(state="incomplete" if self.record().get("undone") else "finished")

    @contextmanager
    def working(self) -> Iterator[None]:
        """Hold the run's lease, and keep its state true, while a job works on it and at the end.

        At the end it is finished or incomplete; failed after an error, with its message; stopped
        after Ctrl-C or SIGTERM. A heartbeat tells others that this process is alive, and what it
        logged last.

        Raises
        ------
        UsageError
            If another process holds the lease; the message names it.
        LeaseLostError
            If another process has taken the lease over, since this one gave no sign of life.
        """
        lease, log = Lease(self.storage), RunLog(self.storage)
        done = threading.Event()
        beating = threading.Thread(target=self._beat, args=(lease, log, done), daemon=True)
        try:
            self._update(driver=me(), error=None)
            beating.start()
            with self._terminable(), log.listening():
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
            if beating.ident is not None:
                beating.join()
            if self._lost is None:
                with suppress(WhylensError):  # the lease grows old by itself
                    log.write()
                    lease.release()

    def _beat(self, lease: Lease, log: RunLog, done: threading.Event) -> None:
        while True:
            try:
                lease.renew()
                self._update(heartbeat=time.time())
                log.write()
            except LeaseLostError as error:
                self._lost = error
                if signal.getsignal(signal.SIGTERM) == self._end:
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
                return
            except WhylensError as error:
                logger.warning("no heartbeat: %s", error)
            if done.wait(BEAT):
                return

    @contextmanager
    def _terminable(self) -> Iterator[None]:
        """SIGTERM ends the process as Ctrl-C does: by an exception, with exit code 143."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, self._end)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _end(self, *_: Any) -> None:
        raise self._lost or SystemExit(TERMINATED)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage that comes to its end."""
        began = time.monotonic()
        yield
        timings = self.record()["timings"]
        spent = timings.get(name, 0.0) + time.monotonic() - began
        self._update(timings={**timings, name: round(spent, 2)})

    def _update(self, **values: Any) -> None:
        if self._lost is not None:  # run.json is another process's now
            raise self._lost
        with _UPDATING:
            self._write({**self.record(), **self._progress, **values})

    def _write(self, record: Mapping[str, Any]) -> None:
        self.storage.write("run.json", (json.dumps(record, indent=2) + "\n").encode())


def at_work(record: Mapping[str, Any]) -> str | None:
    """Another process that works on a run, by its record; None if there is none."""
    return working(record) if record["state"] == "running" else None


def lacking(record: Mapping[str, Any]) -> list[str]:
    """What a run has not done, by its record: a sentence without a full stop for each stage."""
    return [
        f"{stage} lacks {lack['units']} of {lack['of']} units, most of them for: {lack['reason']}"
        for stage, lack in record.get("undone", {}).items()
    ]


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
