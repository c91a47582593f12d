"""The embed job: one pass over a collection; features, probabilities and thumbnails to a table."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from whylens.cluster.placement import Placement
from whylens.errors import UsageError
from whylens.images import (
    ImageCollection,
    match_classes,
    near_classes,
    open_collection,
    units,
)
from whylens.jobs.embedding import TABLE as TABLE
from whylens.jobs.embedding import Embedder, ImageUnit, decode, write_rejected
from whylens.jobs.lineage import Lineage
from whylens.jobs.spec import JobSpec
from whylens.jobs.working import do_missing
from whylens.runs import Run

if TYPE_CHECKING:
    from whylens.classifiers import Classifier

# Ray Data takes 7 to 30 seconds to start, in which the pool does some thousand images.
STREAM_FROM = 20_000
# What `read_embedded` reads of the table.
COLUMNS = ("id", "label", "class_name", "caption", "features", "top5_classes", "collection")


class EmbedSpec(JobSpec):
    """One pass over image collections with a classifier."""

    images: str = Field(
        description="Collection to explain: a folder (flat, or one subfolder a class), .parquet, "
        "a WebDataset .tar, or planted:<split>?count=N&seed=S."
    )
    second: str | None = Field(
        None,
        description="Second collection, mined for images that trigger a class without showing it; "
        "without one, the other classes' images are mined.",
    )
    classifier: str = Field(
        description="bundled:NAME, timm:NAME, open_clip:MODEL/PRETRAINED, "
        "checkpoint:PATH?arch=NAME or planted:NAME."
    )
    captioner: str | None = Field(
        None,
        description="A transformers image-to-text model, by Hub name or folder: says what images "
        "show that come without a caption. Findings are named, and prompts made, by captions.",
    )
    unit: int = Field(256, ge=1, description="Images a unit.")
    batch: int = Field(64, ge=1, description="Images that go through the classifier together.")
    stream_from: int = Field(
        STREAM_FROM, ge=1, description="Images from which on a collection goes through Ray Data."
    )


def embed(run: Run, spec: Any, placement: Placement) -> None:
    """Embed the collections of a spec (an EmbedSpec) into `run`.

    A collection of `stream_from` images or more goes through Ray Data, which decodes ahead of the
    workers on all cores; a smaller one is done by the session's pool before Ray Data would have
    started. Both make the same parts.
    """
    from whylens.classifiers import load_classifier
    from whylens.cluster.pool import WorkerPool
    from whylens.cluster.stream import Both, Stream

    classifier = load_classifier(spec.classifier)
    size = classifier.image_size
    tags = {"main": spec.images} | ({"second": spec.second} if spec.second else {})
    for tag, uri in tags.items():
        collection = open_collection(uri)
        classes = _classes(run, collection, classifier, tag)
        write_rejected(run, f"{tag}-listing", collection.rejected, tag)
        todo = [
            ImageUnit(f"{tag}-{name}", collection.part(part))
            for name, part in units(len(collection), spec.unit)
        ]
        arguments = (
            run, classes, tag, spec.classifier, placement.device, spec.batch, spec.captioner
        )  # fmt: skip
        if len(collection) >= spec.stream_from:
            stream = Stream[ImageUnit](partial(decode, size=size), Embedder, arguments, placement)
            do_missing(run, TABLE, todo, stream.map)
        else:
            both = (partial(decode, size=size, threads=2), Embedder, arguments)
            pool = WorkerPool[ImageUnit](Both, both, placement)
            do_missing(run, TABLE, todo, pool.map)


def _classes(
    run: Run, collection: ImageCollection, classifier: Classifier, tag: str
) -> dict[str, int]:
    """The collection's class names that the classifier knows; a warning for the others."""
    names = collection.records.class_names()
    classes = match_classes(names, classifier.class_names)
    unknown = sorted(names - set(classes))
    if unknown and tag == "main":
        hints = []
        for name in unknown[:5]:
            near = near_classes(name, classifier.class_names)
            hints.append(f"{name!r}" + (f" (near: {', '.join(near)})" if near else ""))
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        run.warn(
            f"{classifier.name} knows {len(classes)} of the collection's {len(names)} class names; "
            f"not {', '.join(hints)}{more}. Images of the others count as unlabelled"
        )
    return classes


@dataclass(frozen=True)
class Embedded:
    """An images table in memory: ids and texts [N], labels [N], features [N, D] float32."""

    ids: list[str]
    labels: np.ndarray
    texts: list[str]
    predicted: np.ndarray
    features: np.ndarray


def read_embedded(table: pa.Table, tag: str) -> Embedded:
    """The rows of one collection.

    Raises
    ------
    UsageError
        If there are none.
    """
    rows = table.filter(pc.equal(table["collection"], tag))
    if len(rows) == 0:
        raise UsageError(
            f"no image of the {tag} collection could be used: see the table 'rejected' for reasons"
        )
    column = rows["features"].combine_chunks()
    size = column.type.list_size
    features = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, size)
    captions, names = (
        pc.if_else(pc.equal(rows[name], ""), None, rows[name]) for name in ("caption", "class_name")
    )
    return Embedded(
        rows["id"].to_pylist(),
        rows["label"].to_numpy().astype(np.int64),
        pc.coalesce(captions, names, "").to_pylist(),
        pc.list_element(rows["top5_classes"], 0).to_numpy().astype(np.int64),
        features.astype(np.float32),
    )


def read_captions(lineage: Lineage, wanted: Collection[str]) -> dict[str, str]:
    """Captions of the images that are wanted and have one, by id."""
    if not wanted or not lineage.has(TABLE):
        return {}
    table = lineage.table(TABLE).read(["id", "caption"])
    pairs = zip(table["id"].to_pylist(), table["caption"].to_pylist(), strict=True)
    return {image_id: caption for image_id, caption in pairs if caption and image_id in wanted}


def collections_of(table: pa.Table) -> Iterator[tuple[str, Embedded]]:
    """Each collection that a part of the table holds images of: its tag, and the images."""
    for tag in sorted(table["collection"].unique().to_pylist()):
        yield tag, read_embedded(table, tag)


def labels_used(main: Embedded) -> np.ndarray:
    """The images' labels [N]; the prediction stands in for one that is missing."""
    return np.where(main.labels < 0, main.predicted, main.labels)
