"""Names: what components, errors and slices show, in words of a vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

from whylens.jobs.report.part import Part
from whylens.jobs.report.tables import rows_of, value
from whylens.jobs.words import amount
from whylens.runs.lineage import Lineage


@dataclass(frozen=True)
class Name:
    """What something of a class shows: words, the best first, each with its cosine."""

    class_name: str
    kind: str
    number: int
    name: str
    images: int


def load_names(run: Lineage) -> tuple[Name, ...]:
    """What was named, by class."""
    rows = [
        value(
            Name,
            row,
            name=", ".join(
                f"{word} ({score:.2f})"
                for word, score in zip(row["words"], row["scores"], strict=True)
            ),
        )
        for row in rows_of(run, "names")
    ]
    return tuple(sorted(rows, key=lambda row: (row.kind, row.class_name, row.number)))


NAMES: Part[Name] = Part(
    name="names",
    title="Names",
    tables=("names",),
    read=load_names,
    place=45,
    empty=lambda data: "Nothing: start `whylens names` with this run as its source.",
    headline=lambda data: f"{amount(len(data[NAMES]), 'feature')} named",
    sentence=lambda rows: (
        "What the images of each share beyond others of their class or collection, by a CLIP model;"
        " in brackets the cosine."
    ),
)
