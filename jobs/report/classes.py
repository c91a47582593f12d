"""The classes of a run's images."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from whylens.jobs.columns import Rows
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
    table = read(run, "images", ("label", "class_name", "collection", "top5_classes"))
    if table is None:
        return (), {}
    names: dict[int, str] = {}
    seen, right, collections = Counter[int](), Counter[int](), Counter[str]()
    for row in Rows(table):
        collection, label = row.get("collection") or "main", row.get("label")
        collections[collection] += 1
        if collection != "main" or label is None or label < 0:
            continue
        names[label] = row.get("class_name") or str(label)
        seen[label] += 1
        if top := row.get("top5_classes"):
            right[label] += top[0] == label
    summaries = (ClassSummary(k, names[k], seen[k], right.get(k)) for k in sorted(seen))
    return tuple(summaries), dict(collections)
