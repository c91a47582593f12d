"""A run: a folder with run.json and tables, in which nothing finished is ever done again."""

import io
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from whylens.errors import UsageError, WhylensError
from whylens.runs.storage import Storage

logger = logging.getLogger(__name__)

FORMAT = 1
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
        """One part, of the columns named: tables larger than the memory are read part by part."""
        wanted = None if columns is None else list(columns)
        return pq.read_table(io.BytesIO(self._storage.read(self._part(unit))), columns=wanted)

    def _part(self, unit: str) -> str:
        return f"tables/{self.name}/{unit}.parquet"


class Run:
    """A run folder. Pickled to workers, which write their units' parts themselves."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.storage = Storage(folder)

    @classmethod
    def start(cls, folder: str, job: str, spec: Mapping[str, Any]) -> "Run":
        """Create a run, or go on with the one that is there if its spec is the same.

        Raises
        ------
        UsageError
            If the folder holds another job or another spec (the first difference is named), or
            can't be written to.
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
            difference = _first_difference(record["spec"], wanted)
            if difference:
                raise UsageError(
                    f"{folder} holds a run with another spec: {difference}. "
                    "Name another folder with --out, or use the run's own settings"
                )
            run.storage.sweep()
            run._update(state="running", versions=_versions())
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

    def warn(self, message: str) -> None:
        """Log a warning and keep it in run.json, once."""
        logger.warning(message)
        warnings = self.record()["warnings"]
        if message not in warnings:
            self._update(warnings=[*warnings, message])

    def finish(self) -> None:
        """Mark the run as finished."""
        self._update(state="finished")

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage; if it raises, the run is marked as failed and can be started again."""
        began = time.monotonic()
        try:
            yield
        except Exception:
            try:
                self._update(state="failed")
            except WhylensError as error:  # a full disk, say: not to hide what went wrong first
                logger.warning("the run could not be marked as failed: %s", error)
            raise
        timings = self.record()["timings"]
        spent = timings.get(name, 0.0) + time.monotonic() - began
        self._update(timings={**timings, name: round(spent, 2)})

    def _update(self, **values: Any) -> None:
        self._write({**self.record(), **values})

    def _write(self, record: Mapping[str, Any]) -> None:
        self.storage.write("run.json", (json.dumps(record, indent=2) + "\n").encode())


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
