"""Files that are no part of a run, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from whylens.jobs.report.part import Limit, Part
from whylens.jobs.report.tables import rows_of
from whylens.jobs.words import amount
from whylens.runs.lineage import Lineage


@dataclass(frozen=True)
class Rejected:
    """A file that is not part of the run, and why."""

    file: str
    reason: str
    collection: str


def load_rejected(run: Lineage) -> tuple[Rejected, ...]:
    """The files that were left out."""
    return tuple(
        Rejected(
            file=str(row.get("path") or row.get("id")),
            reason=str(row.get("reason") or "no reason given"),
            collection=str(row.get("collection") or "main"),
        )
        for row in rows_of(run, "rejected")
    )


def sentence(rows: Sequence[Rejected]) -> str:
    """How many there are."""
    rest = "it" if len(rows) == 1 else "them"
    return (
        f"{amount(len(rows), 'file')} could not be used. Nothing else in this report rests on "
        f"{rest}."
    )


REJECTED = Part(
    name="rejected",
    title="Rejected files",
    tables=("rejected",),
    read=load_rejected,
    place=90,
    always=True,
    empty=lambda data: "None: every file could be read.",
    sentence=sentence,
    limits=(Limit("rejected", 200, "List this many of the rejected files."),),
)
