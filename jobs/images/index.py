"""The index job: features to faiss indexes on disk, one shard a unit, to search and to map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pydantic import Field

from whylens.cluster.placement import Resources
from whylens.cluster.room import of_stage
from whylens.errors import UsageError, WhylensError
from whylens.jobs.columns import columns
from whylens.jobs.images.embedded import COLUMNS, IMAGES, Embedded, labels_used, read_embedded
from whylens.jobs.registry import Job
from whylens.jobs.spec import JobSpec, StageSettings
from whylens.jobs.stage import drop_others, mark, work_through
from whylens.neural_pca import FeatureIndex, ShardedIndex, class_components
from whylens.neural_pca.index import (
    Searchable,
    calibrated,
    load_index,
    pack_index,
    require_classifier,
    unpack_index,
)
from whylens.runs import Run
from whylens.runs.lineage import Lineage

if TYPE_CHECKING:
    from whylens.classifiers import Classifier

TABLE, TRAINING = "index", "index_training"
TRAINED = "index/trained"
QUERIES = "index/queries.npy"
# What an approximate index is calibrated on: components of classes, and how many of each.
CLASSES, COMPONENTS = 32, 8
SCHEMA = pa.schema(
    [
        *columns(pa.string(), "shard", "collection"),
        ("rows", pa.int64()),
        *columns(pa.string(), "factory", "search_parameters"),
        *columns(pa.float64(), "recall", "size_mb"),
    ]
)


class IndexSettings(StageSettings):
    """How features are indexed."""

    factory: str = Field(
        "Flat",
        description="faiss factory string: Flat (exact), SQfp16, IVF1024,SQfp16, ...; for half a "
        "million images and more PCAR384,IVF4096,PQ192x4fsr,Refine(SQfp16).",
    )
    shard: int = Field(
        100_000, ge=1, description="Images a shard, at least; whole parts of images."
    )
    sample: int = Field(50_000, ge=2, description="Images that an approximate index is trained on.")
    recall: float = Field(
        0.95,
        gt=0,
        le=1,
        description="Share of the exact five exemplars of a component that an approximate index is "
        "set to find.",
    )


class IndexSpec(JobSpec):
    """A faiss index of what was embedded."""

    source: str = Field(description="Run folder of an embed or investigate job.")
    index: IndexSettings = IndexSettings()


@dataclass(frozen=True)
class PartsUnit:
    """Parts of a collection: those of one shard, or all, some of which are trained on."""

    name: str
    collection: str
    parts: tuple[str, ...]


def index(run: Run, lineage: Lineage, settings: IndexSettings, placement: Resources) -> None:
    """Train once on a sample, then build the shards; one unit a shard. Trained anew, and built
    anew, where images have come since.

    Raises
    ------
    UsageError
        If faiss knows no such kind, or can't train it on so few images; a feature is not finite.
    WhylensError
        If a shard could not be built.
    """
    units = shards(lineage, settings.shard)
    own = of_stage(settings.placement, placement)
    main = "main" if any(unit.collection == "main" for unit in units) else units[0].collection
    parts = tuple(part for unit in units if unit.collection == main for part in unit.parts)
    # Its name tells what shards there are.
    training = PartsUnit(mark([unit.parts for unit in units]), main, parts)
    if not run.table(TRAINING).done(training.name):
        drop_others(run, [], TABLE, TRAINING)
    work_through(run, TRAINING, [training], Trainer, (run, lineage, settings), own)
    if run.table(TRAINING).done(training.name):
        work_through(run, TABLE, units, Indexer, (run, lineage, settings), own)
    rows = run.table(TABLE).read().to_pylist() if run.table(TABLE).units() else []
    if len(rows) < len(units):
        raise WhylensError(
            f"{len(units) - len(rows)} of {len(units)} shards could not be built (see the warnings "
            f"in {run.folder}/run.json): start the same command again"
        )
    worst = min(rows, key=lambda row: row["recall"])
    if worst["recall"] < settings.recall:
        run.warn(
            f"the index {settings.factory} finds {worst['recall']:.0%} of the exact exemplars in "
            f"the shard {worst['shard']} at best, {settings.recall:.0%} are asked for: choose a "
            "finer one"
        )


def shards(lineage: Lineage, size: int) -> list[PartsUnit]:
    """Parts of the images table, in order, in groups of at least `size` images a collection."""
    table = lineage.table(IMAGES)
    groups: dict[str, list[list[str]]] = {}
    filled: dict[str, int] = {}
    for part in table.units():
        collections, counts = np.unique(
            table.read(["collection"], [part])["collection"].to_numpy(), return_counts=True
        )
        for tag, count in zip(collections.tolist(), counts.tolist(), strict=True):
            if tag not in groups or filled[tag] >= size:
                groups.setdefault(tag, []).append([])
                filled[tag] = 0
            groups[tag][-1].append(part)
            filled[tag] += count
    if not groups:
        raise UsageError(
            "no image could be used: there is nothing to index. See the table 'rejected' for "
            "reasons"
        )
    return [
        PartsUnit(f"{tag}-{number:05d}", tag, tuple(parts))
        for tag, members in groups.items()
        for number, parts in enumerate(members)
    ]


class Trainer:
    """A worker: trains the index on a sample."""

    def __init__(self, run: Run, lineage: Lineage, settings: IndexSettings) -> None:
        """Load the classifier, of whose components it is asked how well it finds exemplars."""
        from whylens.classifiers import load_classifier

        self.run, self.lineage, self.settings = run, lineage, settings
        self.classifier = load_classifier(str(lineage.setting("classifier")))

    def __call__(self, unit: PartsUnit) -> int:
        """Write the empty trained index, and what shards are asked; how many images it learned."""
        sample = _sample(self.lineage, unit.collection, unit.parts, self.settings.sample)
        queries = sample_queries(sample, self.classifier)
        trained = FeatureIndex.train(
            sample.features,
            sample.ids,
            fingerprint=self.classifier.fingerprint,
            factory=self.settings.factory,
        )
        content, record = pack_index(trained)
        buffer = BytesIO()
        np.save(buffer, queries, allow_pickle=False)
        self.run.storage.write(QUERIES, buffer.getvalue())
        self.run.storage.write(f"{TRAINED}.faiss", content)
        self.run.storage.write(f"{TRAINED}.json", record)
        row = {"collection": unit.collection, "images": len(sample.ids)}
        self.run.table(TRAINING).write(unit.name, pa.Table.from_pylist([row]))
        return len(sample.ids)


def _sample(lineage: Lineage, tag: str, parts: Sequence[str], count: int) -> Embedded:
    """At least `count` images where there are so many, from whole parts all over the collection."""
    table = lineage.table(IMAGES)
    order = np.random.default_rng(0).permutation(len(parts))
    chosen: list[pa.Table] = []
    for place in order:
        if sum(len(part) for part in chosen) >= count:
            break
        rows = table.read(COLUMNS, [parts[place]])
        chosen.append(rows.filter(pa.compute.equal(rows["collection"], tag)))
    return read_embedded(pa.concat_tables(chosen, promote_options="permissive"), tag)


def sample_queries(sample: Embedded, classifier: Classifier) -> np.ndarray:
    """Directions d_l of components of the sample's largest classes, [Q, D] float32.

    Labels stand for the class, predictions where there are none. Where no class has two images,
    the head's rows take their place.
    """
    labels = labels_used(sample)
    weight, bias = classifier.head.arrays()
    present, counts = np.unique(labels, return_counts=True)
    queries = []
    for k in present[np.argsort(-counts, kind="stable")][:CLASSES]:
        try:
            found = class_components(
                int(k), weight[k], float(bias[k]), sample.features[labels == k], COMPONENTS
            )
        except WhylensError:  # one image only
            continue
        queries.append(found.directions)
    return np.concatenate(queries or [weight]).astype(np.float32)


class Indexer:
    """A worker: reads a shard's features, fills a copy of the trained index, writes both files."""

    def __init__(self, run: Run, lineage: Lineage, settings: IndexSettings) -> None:
        """Read the trained index."""
        self.run, self.lineage, self.settings = run, lineage, settings
        self.trained = unpack_index(
            run.storage.read(f"{TRAINED}.faiss"), run.storage.read(f"{TRAINED}.json")
        )
        self.queries = np.load(BytesIO(run.storage.read(QUERIES)), allow_pickle=False)

    def __call__(self, unit: PartsUnit) -> int:
        """Write the shard; how many images it holds."""
        table = self.lineage.table(IMAGES).read(COLUMNS, unit.parts)
        embedded = read_embedded(table, unit.collection)
        filled, recall = calibrated(
            self.trained.filled(embedded.features, embedded.ids),
            embedded.features,
            self.queries,
            recall=self.settings.recall,
        )
        content, record = pack_index(filled)
        self.run.storage.write(f"{TABLE}/shard-{unit.name}.faiss", content)
        self.run.storage.write(f"{TABLE}/shard-{unit.name}.json", record)
        row = {
            "collection": unit.collection,
            "shard": unit.name,
            "rows": len(embedded.ids),
            "factory": filled.factory,
            "search_parameters": filled.search_parameters,
            "recall": recall,
            "size_mb": len(content) / 1e6,
        }
        self.run.table(TABLE).write(unit.name, pa.Table.from_pylist([row], schema=SCHEMA))
        return len(embedded.ids)


def open_index(lineage: Lineage, tag: str, classifier: Classifier) -> ShardedIndex | None:
    """The index of a collection that a run or its sources keep; None where none does.

    Memory-mapped from a local run folder, read from any other; on GPUs where faiss sees some.

    Raises
    ------
    UsageError
        If it was built for another classifier, or some shards are missing.
    """
    if not lineage.has(TABLE):
        return None
    run = lineage.holder(TABLE)
    rows = [row for row in run.table(TABLE).read().to_pylist() if row["collection"] == tag]
    if not rows:
        return None
    record = run.record()
    # In `investigate` the run goes on when its index is there.
    built = TABLE in record["timings"] and TABLE not in record.get("undone", {})
    if not built and record["state"] != "finished":
        raise UsageError(f"the index in {run.folder} is not finished: start its job again")
    names = [f"shard-{row['shard']}" for row in rows]
    return ShardedIndex(tuple(_open(run, name, classifier.fingerprint).on_gpus() for name in names))


def index_of(
    lineage: Lineage, tag: str, classifier: Classifier, factory: str = "Flat"
) -> Searchable:
    """The index of a collection that is there, or where no index job ran one made in memory."""
    if (there := open_index(lineage, tag, classifier)) is not None:
        return there
    seen = read_embedded(lineage.table(IMAGES).read(COLUMNS), tag)
    return FeatureIndex.build(
        seen.features, seen.ids, fingerprint=classifier.fingerprint, factory=factory
    ).on_gpus()


def _open(run: Run, name: str, fingerprint: str) -> FeatureIndex:
    if run.storage.local:
        return load_index(Path(run.storage.path(TABLE)), fingerprint=fingerprint, name=name)
    read = run.storage.read
    found = unpack_index(read(f"{TABLE}/{name}.faiss"), read(f"{TABLE}/{name}.json"))
    require_classifier(found.fingerprint, fingerprint, f"in {run.folder}")
    return found


def run(spec: IndexSpec) -> Run:
    """Index the features of a run."""
    with JOB.on_workers(spec) as (run, lineage, placement):
        index(run, lineage, spec.index, placement)
    return run


JOB = Job(
    name="index",
    help="A faiss index of features, to search.",
    spec=IndexSpec,
    run=run,
    tables=(TRAINING, TABLE),
)
