"""The components job: neural PCA of every class, mined and judged.

Two passes over the images table, each shared out over workers, neither of which holds more than a
part of it at a time: a census of labels (whylens.neural_pca.census), then groups of classes. For a
group a worker reads the parts that hold its classes' images, finds their components, and streams
the mined collection once for all of them. How many classes make a group follows from MEMORY.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from whylens.cluster.placement import Placement
from whylens.cluster.session import session
from whylens.errors import UsageError, WhylensError
from whylens.jobs.images.embedded import (
    COLUMNS,
    Embedded,
    collections_of,
    labels_used,
    read_embedded,
)
from whylens.jobs.images.embedded import TABLE as IMAGES
from whylens.jobs.lineage import Lineage
from whylens.jobs.registry import Job
from whylens.jobs.spec import JobSpec
from whylens.jobs.stage import work_through
from whylens.neural_pca import (
    Census,
    ClassComponents,
    Evidence,
    Mined,
    Miner,
    Moments,
    Surroundings,
    class_components,
    from_moments,
    judge,
    typical_words,
)
from whylens.neural_pca.census import from_arrays as census_from_arrays
from whylens.neural_pca.components import from_arrays, to_arrays, varying
from whylens.runs import Run, Table

if TYPE_CHECKING:
    from whylens.classifiers import Classifier

TABLE = "components"
CENSUS = "census"
# Words are read off images above this quantile of alpha, weighted by p_k.
WORDS_FROM = 0.9
# Bytes that a worker may hold for its group of classes; beside it the sample of the census (82 MB
# at D = 2,048) and one block of the table.
MEMORY = 2**30
# One in so many images may be mined: further down are images that don't activate the component.
MINED_OF_POOL = 20
# Images that are mined together, and at most this many spans of parts are counted one by one.
BLOCK = 2048
SPANS = 32
# Stored predictions that the classifier's head gives again from the stored features; float16
# rounding turns a few that are nearly undecided.
SAME_PREDICTIONS = 0.9


class ComponentSettings(BaseModel):
    """How components are found and judged."""

    model_config = ConfigDict(extra="forbid")

    top: int = Field(32, ge=1, description="Components a class, by eigenvalue.")
    mined: int = Field(
        120, ge=1, description="Images mined a component; at most a twentieth of the collection."
    )
    min_images: int = Field(
        10, ge=2, description="Classes with fewer images are skipped, with a warning."
    )
    classes: list[str] = Field(
        default_factory=list, description="Classes by name or number; empty: all with images."
    )


class ComponentsSpec(JobSpec):
    """Neural PCA on an embedded collection."""

    source: str = Field(description="Run folder of an embed job.")
    components: ComponentSettings = Field(
        default_factory=lambda: ComponentSettings(), description="How components are found."
    )


@dataclass(frozen=True)
class SpanUnit:
    """Some parts of the images table."""

    name: str
    parts: tuple[str, ...]


@dataclass(frozen=True)
class GroupUnit:
    """Classes that are done together; named by the last, whose part is written last."""

    name: str
    classes: tuple[int, ...]


def components(
    run: Run, lineage: Lineage, settings: ComponentSettings, placement: Placement
) -> None:
    """Find, mine and judge the components of each class.

    Raises
    ------
    UsageError
        If the images were embedded by another classifier than the one that is there.
    WhylensError
        If no class has enough images.
    """
    from whylens.classifiers import load_classifier

    name = str(lineage.setting("classifier"))
    classifier = load_classifier(name)
    wanted = [classifier.class_index(c) for c in settings.classes]
    images = lineage.table(IMAGES)
    head = Head.of(classifier)
    spans = _spans(images.units())
    _require_made_by(images, spans[0].parts[0], name, head)
    placement = placement.model_copy(update={"num_gpus": 0.0})
    work_through(run, CENSUS, spans, Counter, (run, lineage, name), placement)
    table = run.table(CENSUS)
    if not all(table.done(span.name) for span in spans):
        raise WhylensError(
            "not all images could be counted (see the warnings): start the same command again"
        )
    catalogue = pa.concat_tables([table.read_part(span.name) for span in spans])
    counts = np.zeros(len(classifier.class_names), dtype=np.int64)
    main = catalogue.filter(pa.compute.equal(catalogue["collection"], "main"))
    if len(main) == 0:
        raise UsageError(
            "no image of the main collection could be used: see the table 'rejected' for reasons"
        )
    np.add.at(counts, main["class_index"].to_numpy(), main["images"].to_numpy())
    if unlabelled := sum(main["unlabelled"].to_pylist()):
        run.warn(
            f"{unlabelled} of {counts.sum()} images have no class that {name} knows: "
            "its own predictions stand in for their labels"
        )
    present = wanted or np.flatnonzero(counts).tolist()
    enough = [k for k in present if counts[k] >= settings.min_images]
    if len(enough) < len(present):
        few = [classifier.class_names[k] for k in present if k not in enough]
        run.warn(
            f"{len(few)} classes have fewer than {settings.min_images} images and are skipped: "
            + ", ".join(few[:5])
            + (", ..." if len(few) > 5 else "")
        )
    if not enough:
        raise WhylensError(
            f"no class has {settings.min_images} images: give more images, or lower "
            "components.min_images"
        )
    done = set(run.table(TABLE).units())
    missing = [k for k in enough if unit_name(k) not in done]
    groups = _groups(missing, counts, head.size, settings, placement.workers[1])
    work_through(
        run, TABLE, groups, ComponentFinder, (run, lineage, name, settings, spans), placement
    )


def unit_name(class_index: int) -> str:
    """The name of a class's part."""
    return f"class-{class_index:06d}"


@dataclass(frozen=True)
class Head:
    """A classifier's head on the CPU: weight [K, D] and bias [K], float64, and its names."""

    weight: np.ndarray
    bias: np.ndarray
    names: tuple[str, ...]
    fingerprint: str

    @classmethod
    def of(cls, classifier: Classifier) -> Head:
        """The head of a classifier."""
        return cls(*classifier.head.arrays(), tuple(classifier.class_names), classifier.fingerprint)

    @property
    def size(self) -> int:
        """D."""
        return int(self.weight.shape[1])

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Features [N, D] -> probabilities [N, K], float32."""
        from scipy.special import softmax

        logits = features @ self.weight.T.astype(np.float32) + self.bias.astype(np.float32)
        return np.asarray(softmax(logits, axis=1))


def _require_made_by(images: Table, part: str, name: str, head: Head) -> None:
    """That the classifier is the one that the images were embedded by.

    Raises
    ------
    UsageError
        If it has other features or classes, or predicts other classes from them.
    """
    table = images.read_part(part, COLUMNS)
    if len(table) == 0:
        return
    where = f"the images of {images.url} were not embedded by {name} ({head.fingerprint})"
    what = "embed them again with it, or name the classifier that they were embedded with"
    size = table["features"].type.list_size
    if size != head.size:
        raise UsageError(
            f"{where}: they have {size} features, the classifier has {head.size}: {what}"
        )
    seen = read_embedded(table, table["collection"][0].as_py())
    largest = max(int(seen.labels.max()), int(seen.predicted.max()))
    if largest >= len(head.names):
        raise UsageError(
            f"{where}: they have a label {largest}, the classifier has {len(head.names)} classes: "
            f"{what}"
        )
    same = (head.probabilities(seen.features).argmax(1) == seen.predicted).mean()
    if same < SAME_PREDICTIONS:
        raise UsageError(
            f"{where}: from the same features it predicts the class that is on record for "
            f"{same:.0%} of them only: {what}"
        )


def _spans(parts: Sequence[str]) -> list[SpanUnit]:
    """Parts in order, cut into at most SPANS; a span that has other parts has another name."""
    each = -(-len(parts) // SPANS)
    cut = [tuple(parts[start : start + each]) for start in range(0, len(parts), each)]
    return [
        SpanUnit(f"{place:05d}-{hashlib.sha256(repr(span).encode()).hexdigest()[:8]}", span)
        for place, span in enumerate(cut)
    ]


def _groups(
    classes: Sequence[int],
    counts: np.ndarray,
    size: int,
    settings: ComponentSettings,
    workers: int,
) -> list[GroupUnit]:
    """Classes in order, as many a group as fit MEMORY, but a group for each worker."""
    most = -(-len(classes) // workers)
    groups: list[list[int]] = []
    held = 0
    for k in classes:
        # Features in single precision, or moments of them in double.
        needed = 4 * size * int(min(counts[k], 2 * size))
        needed += Miner.bytes_a_class(settings.top, size, settings.mined)
        if not groups or len(groups[-1]) >= most or held + needed > MEMORY:
            groups.append([])
            held = 0
        groups[-1].append(k)
        held += needed
    return [GroupUnit(unit_name(group[-1]), tuple(group)) for group in groups]


def _pool_labels(tag: str, seen: Embedded) -> np.ndarray:
    """Labels of mined images: a second collection's are taken as they are."""
    return labels_used(seen) if tag == "main" else seen.labels


class Counter:
    """A worker: takes the census of a span of parts."""

    def __init__(self, run: Run, lineage: Lineage, classifier: str) -> None:
        """Read the classifier's head."""
        from whylens.classifiers import load_classifier

        self.run, self.head = run, Head.of(load_classifier(classifier))
        self.images = lineage.table(IMAGES)
        self.pool = "second" if lineage.setting("second") else "main"

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
                        rows.append(_held(part, tag, int(k), int(inside.sum()), unlabelled))
                if tag == self.pool:
                    census = census.with_pool(
                        seen.ids,
                        seen.features,
                        _pool_labels(tag, seen),
                        seen.texts,
                        self.head.probabilities(seen.features),
                    )
                    if tag != "main":
                        rows.append(_held(part, tag, -1, len(seen.ids), 0))
                total += len(seen.ids)
        self.run.storage.write(_census_name(unit), _saved(census.to_arrays()))
        self.run.table(CENSUS).write(unit.name, pa.Table.from_pylist(rows, schema=CATALOGUE))
        return total

    def _require_sound(self, part: str, seen: Embedded) -> None:
        broken = ~np.isfinite(seen.features).all(1)
        if broken.any():
            raise WhylensError(
                f"the features of {seen.ids[int(broken.argmax())]} in the part {part} of the table "
                f"{IMAGES!r} are not finite: embed its unit again"
            )
        largest = max(int(seen.labels.max()), int(seen.predicted.max()))
        if largest >= len(self.head.names):
            raise WhylensError(
                f"the part {part} of the table {IMAGES!r} has a label {largest}, but the "
                f"classifier has {len(self.head.names)} classes: embed its unit again"
            )


class ComponentFinder:
    """A worker: holds the census, does a group of classes a call."""

    def __init__(
        self,
        run: Run,
        lineage: Lineage,
        classifier: str,
        settings: ComponentSettings,
        spans: Sequence[SpanUnit],
    ) -> None:
        """Read the classifier's head and the census."""
        from safetensors.numpy import load

        from whylens.classifiers import load_classifier

        self.run, self.settings = run, settings
        self.head = Head.of(load_classifier(classifier))
        self.images = lineage.table(IMAGES)
        self.pool = "second" if lineage.setting("second") else "main"
        self.census = Census.empty(len(self.head.names), self.head.size)
        self.holders: dict[int, list[str]] = {}
        pool_parts = set()
        for span in spans:
            arrays = load(run.storage.read(_census_name(span)))
            self.census = self.census.merge(census_from_arrays(arrays))
            for row in run.table(CENSUS).read_part(span.name).to_pylist():
                if row["collection"] == "main":
                    self.holders.setdefault(row["class_index"], []).append(row["part"])
                if row["collection"] == self.pool:
                    pool_parts.add(row["part"])
        self.pool_parts = sorted(pool_parts)
        if not self.pool_parts:
            raise UsageError(
                f"no image of the {self.pool} collection could be used: see the table 'rejected' "
                "for reasons"
            )

    def __call__(self, unit: GroupUnit) -> int:
        """Write the components of the classes and their evidence; how many."""
        found = self._find(unit.classes)
        pool = int(self.census.pool_counts.sum())
        miner = Miner(found, min(self.settings.mined, max(1, pool // MINED_OF_POOL)))
        for part in self.pool_parts:
            for tag, seen in collections_of(self.images.read_part(part, COLUMNS)):
                if tag != self.pool:
                    continue
                keys, labels = np.asarray(seen.ids, object), _pool_labels(tag, seen)
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
            self.run.storage.write(arrays_name(k), _serialise(of_class, self.head.fingerprint))
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
        weight, bias, top = self.head.weight, self.head.bias, self.settings.top
        return [gathered.pop(k).components(k, weight[k], float(bias[k]), top) for k in classes]

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
        seen = Surroundings(*census.means(k), census.base(k), sample)
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


CATALOGUE = pa.schema(
    [
        ("part", pa.string()),
        ("collection", pa.string()),
        ("class_index", pa.int32()),
        ("images", pa.int64()),
        ("unlabelled", pa.int64()),
    ]
)
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


def arrays_name(class_index: int) -> str:
    """Where a class's arrays lie in the run folder."""
    return f"components/class-{class_index:06d}.safetensors"


def _held(part: str, tag: str, class_index: int, images: int, unlabelled: int) -> dict[str, Any]:
    """A row of the catalogue; a second collection's images are not told apart by class: -1."""
    return dict(zip(CATALOGUE.names, (part, tag, class_index, images, unlabelled), strict=True))


def _census_name(unit: SpanUnit) -> str:
    return f"census/{unit.name}.safetensors"


def _saved(arrays: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> bytes:
    from safetensors.numpy import save

    return save({k: np.ascontiguousarray(v) for k, v in arrays.items()}, metadata)


def _serialise(found: ClassComponents, fingerprint: str) -> bytes:
    return _saved(to_arrays(found), {"classifier": json.dumps(fingerprint)})


def read_components(lineage: Lineage, class_index: int) -> ClassComponents:
    """A class's components, as a run or its sources keep them."""
    from safetensors.numpy import load

    return from_arrays(load(lineage.file(TABLE, arrays_name(class_index))))


def directions(
    lineage: Lineage, findings: Sequence[Mapping[str, Any]]
) -> dict[tuple[int, int], tuple[np.ndarray, float]]:
    """d_l [D] and c_l of each finding, by class and component."""
    found = {}
    for k in {row["class_index"] for row in findings}:
        of_class = read_components(lineage, k)
        for row in findings:
            if row["class_index"] == k:
                index = row["component"]
                found[k, index] = (of_class.directions[index], float(of_class.offsets[index]))
    return found


def components_of(lineage: Lineage, class_index: int, classifier: Classifier) -> ClassComponents:
    """A class's components, which have to be there and to be this classifier's.

    Raises
    ------
    UsageError
        If the run has none of the class, or they are of other weights than the classifier's.
    """
    from safetensors.numpy import load

    folder = lineage.holder(TABLE).folder
    try:
        content = lineage.file(TABLE, arrays_name(class_index))
    except FileNotFoundError as error:
        raise UsageError(
            f"{folder} has no components of the class {classifier.class_names[class_index]!r}: it "
            "has too few images, or was not asked for"
        ) from error
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    noted = header.get("__metadata__", {}).get("classifier")
    if noted is not None and json.loads(noted) != classifier.fingerprint:
        raise UsageError(
            f"the components in {lineage.runs[0].folder} are of the classifier "
            f"{json.loads(noted)}, but {classifier.name} is {classifier.fingerprint} now: its "
            "weights have changed, run the components job again"
        )
    return from_arrays(load(content))


def run(spec: ComponentsSpec) -> Run:
    """Find and judge the components of a run's classes."""
    run = JOB.start(spec)
    with session():
        components(run, Lineage(run), spec.components, spec.placement)
    run.finish()
    return run


JOB = Job(
    name="components",
    help="Neural PCA of every class, judged.",
    spec=ComponentsSpec,
    run=run,
    tables=(CENSUS, TABLE),
    part="whylens.jobs.report.parts.findings:FINDINGS",
)
