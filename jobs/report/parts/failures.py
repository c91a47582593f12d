"""Units of work that failed, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from whylens.jobs.report.part import Limit, Part
from whylens.jobs.report.tables import grouped, rows_of
from whylens.jobs.words import amount
from whylens.runs.lineage import Lineage


@dataclass(frozen=True)
class FailedUnit:
    """A unit of which attempts failed: how many, and what the last one ended with."""

    stage: str
    unit: str
    attempts: int
    reason: str
    host: str
    time: str
    done: str


def load_failures(run: Lineage) -> tuple[FailedUnit, ...]:
    """The units of which an attempt failed, in the order in which they did first."""
    rows = sorted(rows_of(run, "failures"), key=lambda row: str(row.get("time")))
    there: dict[str, set[str]] = {}
    found = []
    for (stage, unit), tries in grouped(rows, lambda row: (row["stage"], row["unit"])).items():
        if stage not in there:
            there[stage] = set(run.table(stage).units()) if run.has(stage) else set()
        # Tasks that failed alone, too, are listed as units of their own.
        alone = any(name.startswith(f"{unit}-") for name in there[stage])
        done = "since then" if unit in there[stage] else "task by task" if alone else "no"
        last = tries[-1]
        found.append(
            FailedUnit(
                stage, unit, len(tries), last["reason"], last["host"], str(last["time"]), done
            )
        )
    return tuple(found)


def sentence(rows: Sequence[FailedUnit]) -> str:
    """How many there are, and how many are still undone."""
    undone = sum(row.done == "no" for row in rows)
    left = f"{undone} of them are still undone" if undone else "all were done since"
    return (
        f"Attempts at {amount(len(rows), 'unit')} of work failed; {left}. The table failures has "
        "the traceback of each attempt."
    )


FAILURES = Part(
    name="failures",
    title="Failed units",
    tables=("failures",),
    read=load_failures,
    place=95,
    empty=lambda data: "None: no unit of work failed.",
    sentence=sentence,
    limits=(Limit("failures", 50, "List this many of the failed units."),),
)
