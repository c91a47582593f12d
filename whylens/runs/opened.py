"""A run, opened to be read: what it found as tables, for notebooks and for the dashboard.

    run = whylens.open_run("runs/my-run")
    run                                 # what it is, in a notebook
    run.findings()                      # a pandas DataFrame, as are components() and images()
    run.parquet("findings", "findings.parquet")
    run.to_fiftyone("findings-as-files")

Nothing is ever written into the run. A part that can't be read is left out and named in
`problems`; the rest is there.
"""

from __future__ import annotations

import html
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from whylens.errors import WhylensError
from whylens.runs.confined import confined_run
from whylens.runs.lineage import Lineage
from whylens.runs.readable import ReadableTable
from whylens.runs.run import Run, lacking
from whylens.runs.samples import as_dataset

if TYPE_CHECKING:
    import pandas as pd


def open_run(path: str) -> OpenedRun:
    """The run in a folder: a path, or an s3:// or gs:// URI.

    Raises
    ------
    UsageError
        If there is no run, or its run.json can't be read.
    """
    return OpenedRun(path)


class OpenedRun(Lineage):
    """A run and the runs that it builds on, to read from.

    path: its folder
    root: where everything that is read has to be; None: anywhere

    Raises
    ------
    UsageError
        If there is no run, its run.json is no record, or it is outside of the root.
    """

    def __init__(self, path: str, root: str | None = None) -> None:
        self._tables: dict[tuple[str, str], ReadableTable] = {}
        self._opening = threading.RLock()
        self._remarks: list[str] = []
        run = self._opened(path, root)
        self.runs, self.records = [run], [sound(run.record(), run.folder)]
        while source := self.records[-1]["spec"].get("source"):
            if len(self.runs) > 20 or any(source == r.folder for r in self.runs):
                self._remarks.append(f"{run.folder}: its sources lead back to itself")
                break
            try:
                before = self._opened(str(source), root)
                record = sound(before.record(), before.folder)
            except (WhylensError, OSError, ValueError) as error:
                self._remarks.append(f"It builds on another run, which is not shown: {error}")
                break
            self.runs.append(before)
            self.records.append(record)

    @property
    def folder(self) -> str:
        """Where the run is."""
        return self.runs[0].folder

    @property
    def record(self) -> Mapping[str, Any]:
        """run.json as it is now; as it was, where it can't be read any more."""
        try:
            self.records[0] = sound(self.runs[0].record(), self.folder)
        except (WhylensError, OSError) as error:
            self.records[0] = {**self.records[0], "unreadable": str(error)}
        return self.records[0]

    @property
    def problems(self) -> list[str]:
        """What could not be read so far, a sentence each."""
        with self._opening:
            tables = list(self._tables.values())
        return [*self._remarks, *(why for table in tables for why in table.damaged.values())]

    def tables(self) -> list[str]:
        """Names of the tables that there are, of the run and of those that it builds on."""
        names = {name for run in self.runs for name in run.storage.names("tables")}
        return sorted(name for name in names if self.has(name))

    def table(self, name: str) -> ReadableTable:
        """The nearest table of that name, to read from.

        Raises
        ------
        UsageError
            If no run has it.
        """
        return self.of(self.holder(name), name)

    def findings(self) -> pd.DataFrame:
        """The findings by rank, a row each, without pictures; empty where there are none."""
        found = self.frame("findings")
        return found.sort_values("rank", ignore_index=True) if "rank" in found else found

    def components(self) -> pd.DataFrame:
        """All judged components by class and component, a row each; empty where there are none.

        With `suspicious` and `q_value` of the table verdicts, where that is there.
        """
        found, key = self.frame("components"), ["class_index", "component"]
        if len(found) == 0 or not self.has("verdicts"):
            return found
        verdicts = self.frame("verdicts")
        return found.drop(columns=["q_value", "suspicious"], errors="ignore").merge(
            verdicts, on=key, how="left"
        )

    def images(self) -> pd.DataFrame:
        """The embedded images without thumbnails and features; empty where there are none."""
        return self.frame("images")

    def frame(self, name: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """A table, by default of all columns but those of pictures and features."""
        return self.arrow(name, columns).to_pandas()

    def arrow(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """As `frame`, as a pyarrow table; of no rows where no run has it."""
        if not self.has(name):
            return pa.table({})
        table = self.table(name)
        return table.read(table.light_columns() if columns is None else columns)

    def parquet(self, name: str, file: str, columns: Sequence[str] | None = None) -> int:
        """Write a table as one Parquet file, by default with all columns; how many rows.

        Raises
        ------
        UsageError
            If no run has the table.
        """
        rows = self.table(name).read(columns)
        pq.write_table(rows, file, compression="zstd")
        return len(rows)

    def to_fiftyone(self, folder: str, name: str | None = None) -> Any:
        """The images of all findings as a `fiftyone.Dataset`, written to a folder as files.

        See `whylens.runs.samples.as_dataset`.
        """
        return as_dataset(self, folder, name)

    def __repr__(self) -> str:
        record = self.records[0]
        return f"<whylens run {self.folder}: {record['job']}, {record['state']}>"

    def _repr_html_(self) -> str:
        """What the run is, what it found and what it lacks, for a notebook."""
        record = self.record
        facts = {
            "Job": record["job"],
            "State": "; ".join([record["state"], *lacking(record)]),
            "Begun": record.get("created"),
            "Classifier": self.setting("classifier"),
            "Images": self.setting("images"),
            "Tables": ", ".join(self.tables()),
        }
        rows = "".join(
            f"<tr><th>{name}</th><td>{html.escape(str(value))}</td></tr>"
            for name, value in facts.items()
            if value
        )
        remarks = "".join(f"<p>{html.escape(p)}</p>" for p in self.problems)
        return f"<table><caption>{html.escape(self.folder)}</caption>{rows}</table>{remarks}"

    def _opened(self, path: str, root: str | None) -> Run:
        return Run.open(path) if root is None else confined_run(path, root)

    def of(self, run: Run, name: str) -> ReadableTable:
        """A table of one of the runs, to read from."""
        with self._opening:
            key = (run.folder, name)
            if key not in self._tables:
                self._tables[key] = ReadableTable(run.storage, name)
            return self._tables[key]


# What run.json holds besides the job and the state, and of which type.
SHAPES: Mapping[str, type] = {
    "spec": dict,
    "timings": dict,
    "versions": dict,
    "warnings": list,
    "undone": dict,
    "memory": dict,
}


def sound(record: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """A record of which everything is of the type that readers rely on.

    What is of another type is left out, and said under the warnings.
    """
    made = dict(record)
    wrong = []
    for name, kind in SHAPES.items():
        value = made.get(name)
        if not isinstance(value, kind):
            if value is not None:
                wrong.append(name)
            made[name] = kind()
    for name in ("job", "state"):
        made[name] = str(made.get(name) or "unknown")
    made["undone"] = {
        stage: lack
        for stage, lack in made["undone"].items()
        if isinstance(lack, dict) and {"units", "of", "reason"} <= set(lack)
    }
    if not isinstance(made.get("heartbeat"), int | float):
        made["heartbeat"] = None
    driver = made.get("driver")
    if not (isinstance(driver, dict) and isinstance(driver.get("pid"), int) and "host" in driver):
        made["driver"] = None
    if wrong:
        made["warnings"] = [
            *made["warnings"],
            f"{folder}/run.json says nothing that can be read of: {', '.join(wrong)}",
        ]
    return made
