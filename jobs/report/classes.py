"""The classes of a run's images."""

from __future__ import annotations

from dataclasses import dataclass

from whylens.jobs.report.tables import read
from whylens.runs.lineage import Lineage


@dataclass(frozen=True)
class ClassSummary:
    """One class of the main collection: how many images, how many of them rightly classified."""

    class_index: int
    class_name: str
    images: int
    right: int | None


def load_classes(run: Lineage) -> tuple[tuple[ClassSummary, ...], dict[str, int]]:
    """The classes of the main collection, and how many images each collection has."""
    columns = ("label", "class_name", "collection", "top5_classes")
    table = read(run, "images", columns)
    if table is None:
        return (), {}
    names: dict[int, str] = {}
    seen: dict[int, int] = {}
    right: dict[int, int] = {}
    collections: dict[str, int] = {}
    empty = [None] * table.num_rows
    listed = [table[c].to_pylist() if c in table.column_names else empty for c in columns]
    for label, name, collection, top5 in zip(*listed, strict=True):
        collection = collection or "main"
        collections[collection] = collections.get(collection, 0) + 1
        if collection != "main" or label is None or label < 0:
            continue
        names[label] = name or str(label)
        seen[label] = seen.get(label, 0) + 1
        if top5:
            right[label] = right.get(label, 0) + (top5[0] == label)
    summaries = (ClassSummary(k, names[k], seen[k], right.get(k)) for k in sorted(seen))
    return tuple(summaries), collections
