"""The second pass: a group of classes at a time, found, mined and judged.

A worker reads the parts that hold its classes' images, finds their components, and streams the
mined collection once for all of them. How many classes make a group follows from MEMORY.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from whylens.errors import UsageError
from whylens.jobs.findings import census
from whylens.jobs.findings.census import SpanUnit, pool_labels, read_census
from whylens.jobs.findings.head import Head
from whylens.jobs.findings.stored import TABLE, write_components
from whylens.jobs.images.embedded import (
    COLUMNS,
    collections_of,
    labels_used,
    mined_collection,
    read_embedded,
)
from whylens.jobs.images.embedded import TABLE as IMAGES
from whylens.jobs.lineage import Lineage
from whylens.neural_pca.components import ClassComponents, class_components, from_moments, varying
from whylens.neural_pca.moments import Moments
from whylens.neural_pca.ranking import Evidence, Reference, judge, typical_words
from whylens.neural_pca.sufficiency import Mined, Miner
from whylens.runs import Run

SCHEMA = pa.schema(
    [
        ("class_index", pa.int32()),
        ("class_name", pa.string()),
        ("component", pa.int32()),
        ("images", pa.int32()),
        *((n, pa.float64()) for n in ("variance", "variance_share", "logit_share")),
        *((n, pa.float64()) for n in ("sufficiency_share", "sufficiency_mean_p", "lift")),
        ("suspicion", pa.float64()),
        ("suspicious", pa.bool_()),
        ("same_as", pa.int32()),
        ("mined_ids", pa.list_(pa.string())),
        ("mined_alphas", pa.list_(pa.float64())),
        ("mined_p", pa.list_(pa.float64())),
        ("mined_labels", pa.list_(pa.int32())),
        ("words", pa.list_(pa.string())),
        ("word_lifts", pa.list_(pa.float64())),
    ]
)
# Words are read off images above this quantile of alpha, weighted by p_k.
WORDS_FROM = 0.9
# Bytes that a worker may hold for its group of classes; beside it the sample of the census (82 MB
# at D = 2,048) and one block of the table.
MEMORY = 2**30
# One in so many images may be mined: further down are images that don't activate the component.
MINED_OF_POOL = 20
# Images that are mined together.
BLOCK = 2048


@dataclass(frozen=True)
class GroupUnit:
    """Classes that are done together; named by the last, whose part is written last."""

    name: str
    classes: tuple[int, ...]


def unit_name(class_index: int) -> str:
    """The name of a class's part."""
    return f"class-{class_index:06d}"


def groups_of(
    classes: Sequence[int], counts: np.ndarray, size: int, top: int, mined: int, workers: int
) -> list[GroupUnit]:
    """Classes in order, as many a group as fit MEMORY, but a group for each worker.

    `counts` [K] are the images of all classes, `size` is D.
    """
    most = -(-len(classes) // workers)
    groups: list[list[int]] = []
    held = 0
    for k in classes:
        # Features in single precision, or moments of them in double.
        needed = 4 * size * int(min(counts[k], 2 * size)) + Miner.bytes_a_class(top, size, mined)
        if not groups or len(groups[-1]) >= most or held + needed > MEMORY:
            groups.append([])
            held = 0
        groups[-1].append(k)
        held += needed
    return [GroupUnit(unit_name(group[-1]), tuple(group)) for group in groups]


class ComponentFinder:
    """A worker: holds the census, does a group of classes a call."""

    def __init__(
        self,
        run: Run,
        lineage: Lineage,
        classifier: str,
        top: int,
        mined: int,
        spans: Sequence[SpanUnit],
    ) -> None:
        """Read the classifier's head and the census."""
        from whylens.classifiers import load_classifier

        self.run, self.top, self.mined = run, top, mined
        self.head = Head.of(load_classifier(classifier))
        self.images, self.pool = lineage.table(IMAGES), mined_collection(lineage)
        self.census = read_census(run, spans, self.head)
        held = run.table(census.TABLE).read(units=[span.name for span in spans]).to_pylist()
        self.holders: dict[int, list[str]] = {}
        for row in held:
            if row["collection"] == "main":
                self.holders.setdefault(row["class_index"], []).append(row["part"])
        self.pool_parts = sorted({row["part"] for row in held if row["collection"] == self.pool})
        if not self.pool_parts:
            raise UsageError(
                f"no image of the {self.pool} collection could be used: see the table 'rejected' "
                "for reasons"
            )

    def __call__(self, unit: GroupUnit) -> int:
        """Write the components of the classes and their evidence; how many."""
        found = self._find(unit.classes)
        pool = int(self.census.pool_counts.sum())
        miner = Miner(found, min(self.mined, max(1, pool // MINED_OF_POOL)))
        for part in self.pool_parts:
            for tag, seen in collections_of(self.images.read_part(part, COLUMNS)):
                if tag != self.pool:
                    continue
                keys, labels = np.asarray(seen.ids, object), pool_labels(tag, seen)
                for start in range(0, len(keys), BLOCK):
                    block = slice(start, start + BLOCK)
                    features = seen.features[block]
                    miner.add(
                        keys[block], features, self.head.probabilities(features), labels[block]
                    )
        sampled = self._sample_probabilities(unit.classes)
        total = 0
        for place, (of_class, mined) in enumerate(zip(found, miner.results(), strict=True)):
            k = of_class.class_index
            rows = self._judged(of_class, mined, sampled[:, place])
            write_components(self.run, of_class, self.head.fingerprint)
            part = pa.Table.from_pylist(rows, schema=SCHEMA)
            self.run.table(TABLE).write(unit_name(k), part)
            total += len(rows)
        return total

    def _find(self, classes: Sequence[int]) -> list[ClassComponents]:
        gathered = {k: _Gathered(self.head.size) for k in classes}
        for part in sorted({part for k in classes for part in self.holders[k]}):
            seen = read_embedded(self.images.read_part(part, COLUMNS), "main")
            labels = labels_used(seen)
            for k in np.intersect1d(labels, classes):
                gathered[int(k)].add(seen.features[labels == k])
        weight, bias = self.head.weight, self.head.bias
        return [gathered.pop(k).components(k, weight[k], float(bias[k]), self.top) for k in classes]

    def _sample_probabilities(self, classes: Sequence[int]) -> np.ndarray:
        """p_k of the census's sample for some classes, [S, len(classes)]."""
        features = self.census.features
        blocks = [features[start : start + BLOCK] for start in range(0, len(features), BLOCK)]
        return np.concatenate([self.head.probabilities(b)[:, list(classes)] for b in blocks])

    def _judged(
        self, found: ClassComponents, mined: Mined, probabilities: np.ndarray
    ) -> list[dict[str, Any]]:
        """A class's rows of the table; p_k of the census's sample is given, [S]."""
        k, census = found.class_index, self.census
        without = census.labels != k
        sample, texts = census.features[without], census.texts[without].tolist()
        seen = Reference(*census.means(k), census.base(k), sample)
        evidence = judge(found, mined, seen)
        alphas = found.alphas(sample)
        rows = []
        for index in range(len(found.variances)):
            row = self._row(found, mined, evidence, index)
            if evidence.suspicion[index] > 0.05:
                high = alphas[:, index] > np.quantile(alphas[:, index], WORDS_FROM)
                words = typical_words(texts, np.where(high, probabilities[without], 0.0))
                row["words"] = [word for word, _ in words]
                row["word_lifts"] = [lift for _, lift in words]
            rows.append(row)
        return rows

    def _row(
        self, found: ClassComponents, mined: Mined, evidence: Evidence, index: int
    ) -> dict[str, Any]:
        return {
            "class_index": found.class_index,
            "class_name": self.head.names[found.class_index],
            "component": index,
            "images": found.count,
            "variance": float(found.variances[index]),
            "variance_share": float(evidence.variance_share[index]),
            "logit_share": float(evidence.contrast_share[index]),
            "sufficiency_share": float(evidence.sufficiency_share[index]),
            "sufficiency_mean_p": float(evidence.sufficiency_mean_p[index]),
            "lift": float(evidence.lift[index]),
            "suspicion": float(evidence.suspicion[index]),
            "suspicious": bool(evidence.suspicious[index]),
            "same_as": int(evidence.same_as[index]),
            "mined_ids": mined.rows[index].tolist(),
            "mined_alphas": mined.alphas[index].tolist(),
            "mined_p": mined.probabilities[index].tolist(),
            "mined_labels": mined.labels[index].tolist(),
            "words": [],
            "word_lifts": [],
        }


class _Gathered:
    """A class's features as they come: kept while they are fewer than D, else as moments."""

    def __init__(self, size: int) -> None:
        self._size, self._rows, self._moments = size, list[np.ndarray](), Moments.empty(0)

    def add(self, features: np.ndarray) -> None:
        self._rows.append(features)
        if sum(map(len, self._rows)) >= self._size:
            moments = Moments.of(np.concatenate(self._rows))
            self._moments = moments.merge(self._moments)
            self._rows = []

    def components(self, k: int, weight: np.ndarray, bias: float, top: int) -> ClassComponents:
        rows = np.concatenate(self._rows or [np.zeros((0, self._size), np.float32)])
        if not self._moments.count:
            return class_components(k, weight, bias, rows, top)
        moments = self._moments.merge(Moments.of(rows)) if len(rows) else self._moments
        return varying(from_moments(k, weight, bias, moments, top))
