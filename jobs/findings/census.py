"""The first pass over the images table: which classes each part holds, and what judging asks.

A span of parts is a unit: its census (whylens.neural_pca.census) is a file, its part of the table
says which parts hold images of which class.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from whylens.errors import WhylensError
from whylens.jobs.columns import columns
from whylens.jobs.findings.head import Head, require_made_by
from whylens.jobs.findings.stored import packed
from whylens.jobs.images.embedded import (
    COLUMNS,
    IMAGES,
    Embedded,
    collections_of,
    labels_used,
    mined_collection,
)
from whylens.neural_pca.census import Census, from_arrays
from whylens.runs import Run
from whylens.runs.lineage import Lineage

CENSUS = "census"
SCHEMA = pa.schema(
    [
        *columns(pa.string(), "part", "collection"),
        # -1 for a second collection's images, which are not told apart by class.
        ("class_index", pa.int32()),
        *columns(pa.int64(), "images", "unlabelled"),
    ]
)
# Parts are counted one by one up to this many, then in spans.
SPANS = 32


@dataclass(frozen=True)
class SpanUnit:
    """Some parts of the images table."""

    name: str
    parts: tuple[str, ...]


def spans_of(parts: Sequence[str]) -> list[SpanUnit]:
    """Parts in order, cut into at most SPANS; a span that has other parts has another name."""
    each = -(-len(parts) // SPANS)
    cut = [tuple(parts[start : start + each]) for start in range(0, len(parts), each)]
    return [
        SpanUnit(f"{place:05d}-{hashlib.sha256(repr(span).encode()).hexdigest()[:8]}", span)
        for place, span in enumerate(cut)
    ]


def pool_labels(tag: str, seen: Embedded) -> np.ndarray:
    """Labels of mined images: a second collection's are taken as they are."""
    return labels_used(seen) if tag == "main" else seen.labels


class Counter:
    """A worker: takes the census of a span of parts."""

    def __init__(self, run: Run, lineage: Lineage, classifier: str) -> None:
        """Read the classifier's head; refuse images that another one embedded."""
        from whylens.classifiers import load_classifier

        self.run, self.head = run, Head.of(load_classifier(classifier))
        self.images, self.pool = lineage.table(IMAGES), mined_collection(lineage)
        require_made_by(self.images, self.images.units()[0], classifier, self.head)

    def __call__(self, unit: SpanUnit) -> int:
        """Write the census of the parts, and which classes each holds; how many images."""
        census = Census.empty(len(self.head.names), self.head.size)
        rows, total = [], 0
        for part in unit.parts:
            for tag, seen in collections_of(self.images.read_part(part, COLUMNS)):
                self._require_sound(part, seen)
                if tag == "main":
                    labels = labels_used(seen)
                    census = census.with_images(seen.features, labels)
                    for k in np.unique(labels):
                        inside = labels == k
                        unlabelled = int((inside & (seen.labels < 0)).sum())
                        rows.append((part, tag, int(k), int(inside.sum()), unlabelled))
                if tag == self.pool:
                    census = census.with_pool(
                        seen.ids,
                        seen.features,
                        pool_labels(tag, seen),
                        # A mined image's class is what the feature is not: no name for it.
                        seen.captions,
                        self.head.probabilities(seen.features),
                    )
                    if tag != "main":
                        rows.append((part, tag, -1, len(seen.ids), 0))
                total += len(seen.ids)
        self.run.storage.write(_file(unit), packed(census.to_arrays()))
        held = [dict(zip(SCHEMA.names, row, strict=True)) for row in rows]
        self.run.table(CENSUS).write(unit.name, pa.Table.from_pylist(held, schema=SCHEMA))
        return total

    def _require_sound(self, part: str, seen: Embedded) -> None:
        broken = ~np.isfinite(seen.features).all(1)
        if broken.any():
            raise WhylensError(
                f"the features of {seen.ids[int(broken.argmax())]} in the part {part} of the table "
                f"{IMAGES!r} are not finite: embed its unit again"
            )
        if (largest := seen.largest_class) >= len(self.head.names):
            raise WhylensError(
                f"the part {part} of the table {IMAGES!r} has a label {largest}, but the "
                f"classifier has {len(self.head.names)} classes: embed its unit again"
            )


def read_census(run: Run, spans: Sequence[SpanUnit], head: Head) -> Census:
    """The census of all spans."""
    from safetensors.numpy import load

    census = Census.empty(len(head.names), head.size)
    for span in spans:
        census = census.merge(from_arrays(load(run.storage.read(_file(span)))))
    return census


def _file(unit: SpanUnit) -> str:
    return f"census/{unit.name}.safetensors"
