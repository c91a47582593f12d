"""The second pass: a group of classes at a time, found, mined and judged.

A worker reads the parts that hold its classes' images, finds their components, and streams the
mined collection once for all of them. How many classes make a group follows from MEMORY.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from whylens.jobs.columns import columns, columns_of
from whylens.jobs.findings.census import CENSUS, SpanUnit, pool_labels, read_census
from whylens.jobs.findings.head import Head
from whylens.jobs.findings.stored import COMPONENTS, write_components
from whylens.jobs.images.embedded import (
    COLUMNS,
    IMAGES,
    collections_of,
    labels_used,
    mined_collection,
    no_images,
    read_embedded,
)
from whylens.neural_pca.components import ClassComponents, class_components, from_moments, varying
from whylens.neural_pca.moments import Moments
from whylens.neural_pca.ranking import Asked, Reference, judge, typical_words
from whylens.neural_pca.sufficiency import Mined, Miner, best_two, strata_of
from whylens.runs import Run
from whylens.runs.lineage import Lineage

SCHEMA = pa.schema(
    [
        ("class_index", pa.int32()),
        ("class_name", pa.string()),
        *columns(pa.int32(), "component", "images"),
        *columns(pa.float64(), "variance", "variance_share", "logit_share"),
        *columns(pa.float64(), "sufficiency_share", "sufficiency_mean_p", "lift"),
        # Over the mined images' classes; the interval is null where all are of one.
        *columns(pa.float64(), "strata_p", "strata_p_low", "strata_p_high"),
        *columns(pa.float64(), "expected_p", "asked_p", "p_value", "suspicion"),
        *columns(pa.int32(), "strata", "same_as"),
        ("mined_ids", pa.list_(pa.string())),
        *columns(pa.list_(pa.float64()), "mined_alphas", "mined_p"),
        ("mined_labels", pa.list_(pa.int32())),
        ("words", pa.list_(pa.string())),
        ("word_lifts", pa.list_(pa.float64())),
    ]
)
# Words are read off images above this quantile of alpha, weighted by p_k, from this suspicion on.
WORDS_FROM, WORDS_AT = 0.9, 0.05
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

    @property
    def pieces(self) -> list[GroupUnit]:
        """Each class alone."""
        return [GroupUnit(unit_name(k), (k,)) for k in self.classes]


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
        asked: Asked,
        spans: Sequence[SpanUnit],
        device: str | None,
    ) -> None:
        """Read the classifier's head and the census; `device`: torch's, where one calculates."""
        from whylens.classifiers import load_classifier

        self.run, self.top, self.mined, self.asked = run, top, mined, asked
        self.head, self.device = Head.of(load_classifier(classifier)), device
        self.probabilities = self._probabilities()
        self.images, self.pool = lineage.table(IMAGES), mined_collection(lineage)
        self.census = read_census(run, spans, self.head)
        # The two likeliest classes of each image of the census's sample, [S, 2].
        self.best = self._sampled(best_two)
        held = run.table(CENSUS).read(units=[span.name for span in spans]).to_pylist()
        self.holders: dict[int, list[str]] = {}
        for row in held:
            if row["collection"] == "main":
                self.holders.setdefault(row["class_index"], []).append(row["part"])
        self.pool_parts = sorted({row["part"] for row in held if row["collection"] == self.pool})
        if not self.pool_parts:
            raise no_images(self.pool)

    def __call__(self, unit: GroupUnit) -> int:
        """Write the components of the classes and their evidence; how many."""
        found, own = self._find(unit.classes)
        pool = int(self.census.pool_counts.sum())
        count = min(self.mined, max(1, pool // MINED_OF_POOL))
        miner = Miner(found, count, device=self.device)
        for part in self.pool_parts:
            for tag, seen in collections_of(self.images.read_part(part, COLUMNS)):
                if tag != self.pool:
                    continue
                keys, labels = np.asarray(seen.ids, object), pool_labels(tag, seen)
                for start in range(0, len(keys), BLOCK):
                    block = slice(start, start + BLOCK)
                    features = seen.features[block]
                    miner.add(keys[block], features, self.probabilities(features), labels[block])
        sampled = self._sampled(lambda p: p[:, list(unit.classes)])
        total = 0
        for place, (of_class, mined) in enumerate(zip(found, miner.results(), strict=True)):
            part = self._judged(of_class, mined, own[place], sampled[:, place])
            write_components(self.run, of_class, self.head.fingerprint)
            self.run.table(COMPONENTS).write(unit_name(of_class.class_index), part)
            total += len(part)
        return total

    def _find(self, classes: Sequence[int]) -> tuple[list[ClassComponents], list[float]]:
        """The components of classes, and the mean p_k of their images."""
        sums = dict.fromkeys(classes, 0.0)
        gathered = {k: _Gathered(self.head.size, self.device) for k in classes}
        for part in sorted({part for k in classes for part in self.holders[k]}):
            seen = read_embedded(self.images.read_part(part, COLUMNS), "main")
            labels = labels_used(seen)
            for k in np.intersect1d(labels, classes):
                of_class = seen.features[labels == k]
                gathered[int(k)].add(of_class)
                sums[int(k)] += float(self.probabilities(of_class)[:, k].sum(dtype=np.float64))
        means = [sums[k] / max(int(self.census.counts[k]), 1) for k in classes]
        weight, bias = self.head.weight, self.head.bias
        if self.device is None:
            return [
                gathered.pop(k).components(k, weight[k], float(bias[k]), self.top) for k in classes
            ], means
        from whylens.neural_pca.on_device import ClassFeatures, components_on

        of_classes = [
            ClassFeatures(k, weight[k], float(bias[k]), gathered[k].seen()) for k in classes
        ]
        return components_on(self.device, of_classes, self.top), means

    def _probabilities(self) -> Callable[[np.ndarray], np.ndarray]:
        """Features [N, D] -> probabilities [N, K], float32."""
        if self.device is None:
            return self.head.probabilities
        from whylens.neural_pca.on_device import Affine

        logits = Affine(self.device, self.head.weight, self.head.bias)
        return lambda features: self.head.of_logits(logits(features))

    def _sampled(self, read: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """What is read of the probabilities [B, K] of the census's sample, block by block."""
        features = self.census.features
        blocks = [features[start : start + BLOCK] for start in range(0, len(features), BLOCK)]
        return np.concatenate([read(self.probabilities(block)) for block in blocks])

    def _judged(
        self, found: ClassComponents, mined: Mined, own: float, probabilities: np.ndarray
    ) -> pa.Table:
        """A class's part of the table; mean p_k of its images and p_k of the census's sample [S]
        are given."""
        k, count = found.class_index, len(found.variances)
        without = self.census.labels != k
        sample, texts = self.census.features[without], self.census.texts[without].tolist()
        seen = Reference(
            *self.census.means(k),
            own,
            self.census.base(k),
            sample,
            probabilities[without],
            strata_of(self.census.labels, self.best, k)[without],
        )
        evidence = judge(found, mined, seen, self.asked)
        words: list[list[tuple[str, float]]] = []
        for alphas, suspicion in zip(found.alphas(sample).T, evidence.suspicion, strict=True):
            words.append([])
            if suspicion > WORDS_AT:
                high = alphas > np.quantile(alphas, WORDS_FROM)
                words[-1] = typical_words(texts, np.where(high, probabilities[without], 0.0))
        rows = {
            "class_index": [k] * count,
            "class_name": [self.head.names[k]] * count,
            "component": np.arange(count),
            "images": [found.count] * count,
            "variance": found.variances,
            **columns_of(evidence, SCHEMA),
            "logit_share": evidence.contrast_share,
            "strata_p_low": known(evidence.strata_p_low),
            "strata_p_high": known(evidence.strata_p_high),
            "mined_ids": mined.rows.tolist(),
            "mined_alphas": mined.alphas.tolist(),
            "mined_p": mined.probabilities.tolist(),
            "mined_labels": mined.labels.tolist(),
            "words": [[word for word, _ in of_component] for of_component in words],
            "word_lifts": [[lift for _, lift in of_component] for of_component in words],
        }
        return pa.table(rows, schema=SCHEMA)


def known(values: np.ndarray) -> pa.Array:
    """Numbers, null where they are NaN."""
    return pa.array(values, mask=np.isnan(values))


class _Gathered:
    """A class's features as they come: kept while they are fewer than D, else as moments."""

    def __init__(self, size: int, device: str | None) -> None:
        self._size, self._device = size, device
        self._rows, self._moments = list[np.ndarray](), Moments.empty(0)

    def add(self, features: np.ndarray) -> None:
        self._rows.append(features)
        if sum(map(len, self._rows)) >= self._size:
            self._moments = self._moments_of(np.concatenate(self._rows)).merge(self._moments)
            self._rows = []

    def seen(self) -> np.ndarray | Moments:
        """All of them."""
        rows = np.concatenate(self._rows or [np.zeros((0, self._size), np.float32)])
        if not self._moments.count:
            return rows
        return self._moments.merge(self._moments_of(rows)) if len(rows) else self._moments

    def components(self, k: int, weight: np.ndarray, bias: float, top: int) -> ClassComponents:
        seen = self.seen()
        if isinstance(seen, Moments):
            return varying(from_moments(k, weight, bias, seen, top))
        return class_components(k, weight, bias, seen, top)

    def _moments_of(self, rows: np.ndarray) -> Moments:
        if self._device is None:
            return Moments.of(rows)
        from whylens.neural_pca.on_device import moments_on

        return moments_on(self._device, rows)
