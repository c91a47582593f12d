"""A job as somebody would add it: one file, and nothing else (test_toy.py puts it in its place)."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
from pydantic import Field

from whylens.jobs.registry import Job
from whylens.jobs.report.part import Limit, Part
from whylens.jobs.report.tables import rows_of, value
from whylens.jobs.spec import JobSpec
from whylens.runs import Run
from whylens.runs.lineage import Lineage


class ToySpec(JobSpec):
    """Words and how long they are."""

    words: list[str] = Field(description="Words to measure.")


def run(spec: ToySpec) -> Run:
    """Measure the words of a spec."""
    with JOB.working(spec) as run:
        rows = [{"word": word, "letters": len(word)} for word in spec.words]
        run.table("toys").write("all", pa.Table.from_pylist(rows))
    return run


@dataclass(frozen=True)
class Toy:
    """A word and how long it is."""

    word: str
    letters: int


def load(run: Lineage) -> tuple[Toy, ...]:
    """The words that were measured."""
    return tuple(value(Toy, row) for row in rows_of(run, "toys"))


TOYS = Part(
    name="toys",
    title="Toy words",
    tables=("toys",),
    read=load,
    sentence=lambda rows: f"The longest word is {max(rows, key=lambda row: row.letters).word}.",
    headline=lambda data: f"{len(data[TOYS])} words were measured",
    limits=(Limit("toys", 2, "Show this many words."),),
)
JOB = Job(
    name="toy",
    help="How long words are.",
    spec=ToySpec,
    run=run,
    tables=("toys",),
    part="whylens.jobs.toy:TOYS",
)
