"""What a job builds on: the tables and settings of its run, and of the runs before it."""

from collections.abc import Sequence
from typing import Any

from whylens.errors import UsageError
from whylens.runs.run import Run
from whylens.runs.table import Table


class Lineage:
    """A run and its sources, the nearest first.

    `investigate` keeps all stages in one run; jobs that are started one by one name the run that
    they build on as their `source`.
    """

    def __init__(self, run: Run) -> None:
        self.runs = [run]
        self.records = [run.record()]
        while source := self.records[-1]["spec"].get("source"):
            if len(self.runs) > 20 or any(source == r.folder for r in self.runs):
                raise UsageError(f"{run.folder}: its sources lead back to itself")
            self.runs.append(Run.open(source))
            self.records.append(self.runs[-1].record())

    def of(self, run: Run, name: str) -> Table:
        """A table of one of the runs: all that is read of any goes through here."""
        return run.table(name)

    def table(self, name: str) -> Table:
        """The nearest table of that name.

        Raises
        ------
        UsageError
            If no run has it.
        """
        return self.of(self.holder(name), name)

    def rows(self, name: str, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Rows of the nearest table of that name; none where no run has it."""
        return self.table(name).read(columns).to_pylist() if self.has(name) else []

    def has(self, name: str) -> bool:
        """Whether any run has a part of the table."""
        return any(self.of(run, name).units() for run in self.runs)

    def parts(self, name: str) -> list[str]:
        """Names of the parts of the nearest table of that name; none where no run has it."""
        return self.table(name).units() if self.has(name) else []

    def setting(self, name: str) -> Any:
        """The nearest run's setting of that name; None where no run has it."""
        for record in self.records:
            if record["spec"].get(name) is not None:
                return record["spec"][name]
        return None

    def file(self, table: str, name: str) -> bytes:
        """A file beside the parts of a table."""
        return self.holder(table).storage.read(name)

    def holder(self, table: str) -> Run:
        """The nearest run that has a part of the table.

        Raises
        ------
        UsageError
            If no run has it.
        """
        for run in self.runs:
            if self.of(run, table).units():
                return run
        chain = " <- ".join(run.folder for run in self.runs)
        raise UsageError(
            f"no run has the table {table!r} yet ({chain}): run its job first, and name its run "
            "folder as --source"
        )
