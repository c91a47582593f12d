"""The embed job: one pass over a collection; features, probabilities and thumbnails to a table."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from whylens.cluster.placement import Placement
from whylens.errors import UsageError
from whylens.images import (
    ImageCollection,
    Rejected,
    RejectedImageError,
    labels_of,
    match_classes,
    near_classes,
    open_collection,
    units,
)
from whylens.jobs.spec import JobSpec
from whylens.jobs.working import work_through
from whylens.runs import Run

if TYPE_CHECKING:
    from whylens.classifiers import Classifier

TABLE = "images"
REJECTED = pa.schema([(name, pa.string()) for name in ("id", "path", "reason", "collection")])


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
    unit: int = Field(256, ge=1, description="Images a unit.")
    batch: int = Field(64, ge=1, description="Images that go through the classifier together.")


@dataclass(frozen=True)
class EmbedUnit:
    """A slice of a collection."""

    name: str
    start: int
    stop: int


def embed(run: Run, spec: Any, placement: Placement) -> None:
    """Embed the collections of a spec (images, second, classifier, unit, batch) into `run`."""
    from whylens.classifiers import load_classifier

    classifier = load_classifier(spec.classifier)
    tags = {"main": spec.images} | ({"second": spec.second} if spec.second else {})
    for tag, uri in tags.items():
        collection = open_collection(uri)
        classes = _classes(run, collection, classifier, tag)
        _write_rejected(run, f"{tag}-listing", collection.rejected, tag)
        todo = [
            EmbedUnit(f"{tag}-{name}", part.start, part.stop)
            for name, part in units(len(collection), spec.unit)
        ]
        work_through(
            run,
            TABLE,
            todo,
            Embedder,
            (run, collection, classes, tag, spec.classifier, placement.device, spec.batch),
            placement,
        )


def _classes(
    run: Run, collection: ImageCollection, classifier: Classifier, tag: str
) -> dict[str, int]:
    """The collection's class names that the classifier knows; a warning for the others."""
    names = {r.class_name for r in collection.records if r.class_name is not None}
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


def _write_rejected(run: Run, unit: str, rejected: tuple[Rejected, ...], tag: str) -> None:
    if not rejected or run.table("rejected").done(unit):
        return
    rows = [{"id": r.id, "path": r.path, "reason": r.reason, "collection": tag} for r in rejected]
    run.table("rejected").write(unit, pa.Table.from_pylist(rows, schema=REJECTED))


class Embedder:
    """A worker: decodes a unit's images in threads, embeds them, writes the unit's parts."""

    def __init__(
        self,
        run: Run,
        collection: ImageCollection,
        classes: dict[str, int],
        tag: str,
        classifier: str,
        device: str,
        batch: int,
    ) -> None:
        """Load the classifier by name onto the device."""
        from whylens.classifiers import load_classifier

        self.run, self.collection, self.classes, self.tag = run, collection, classes, tag
        self.classifier = load_classifier(classifier, device)
        self.batch = batch

    def __call__(self, unit: EmbedUnit) -> int:
        """Embed the unit; how many images were accepted."""
        from whylens.images.tensors import thumbnail, to_tensor

        records = self.collection.records[unit.start : unit.stop]

        def load(record: Any) -> Any:
            try:
                image = self.collection.load(record)
            except RejectedImageError as error:
                return Rejected(record.id, record.path, str(error))
            return to_tensor(image, self.classifier.image_size), thumbnail(image)

        with ThreadPoolExecutor(2) as threads:
            loaded = list(threads.map(load, records))
        rejected = tuple(item for item in loaded if isinstance(item, Rejected))
        kept = [
            (r, item)
            for r, item in zip(records, loaded, strict=True)
            if not isinstance(item, Rejected)
        ]
        labels = labels_of([record for record, _ in kept], self.classes)
        features, probabilities = self._forward([item[0] for _, item in kept])
        finite = np.isfinite(features).all(1)
        rejected += tuple(
            Rejected(record.id, record.path, "the classifier's features are not finite")
            for (record, _), ok in zip(kept, finite, strict=True)
            if not ok
        )
        _write_rejected(self.run, unit.name, rejected, self.tag)
        rows = [row for row, ok in enumerate(finite) if ok]
        part = self._part(
            [kept[row] for row in rows], labels[rows], features[rows], probabilities[rows]
        )
        self.run.table(TABLE).write(unit.name, part)
        return len(rows)

    def _forward(self, images: list[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Features [N, D] and probabilities [N, K], float32."""
        import torch

        size, classes = self.classifier.feature_size, len(self.classifier.class_names)
        features = [np.zeros((0, size), np.float32)]
        probabilities = [np.zeros((0, classes), np.float32)]
        with torch.inference_mode():
            for start in range(0, len(images), self.batch):
                batch = torch.stack(images[start : start + self.batch])
                phi = self.classifier.features(batch.to(self.classifier.device))
                features.append(phi.float().cpu().numpy())
                softmax = self.classifier.head(phi).softmax(1)
                probabilities.append(softmax.float().cpu().numpy())
        return np.concatenate(features), np.concatenate(probabilities)

    def _part(
        self, kept: list[Any], labels: np.ndarray, features: np.ndarray, probabilities: np.ndarray
    ) -> pa.Table:
        count, size = features.shape
        top = min(5, probabilities.shape[1])
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
        p_label = np.where(
            labels >= 0, probabilities[np.arange(count), np.maximum(labels, 0)], np.nan
        )
        flat = pa.array(features.astype(np.float16).ravel())
        return pa.table(
            {
                "id": pa.array([r.id for r, _ in kept], pa.string()),
                "path": pa.array([r.path for r, _ in kept], pa.string()),
                "label": pa.array(labels, pa.int32()),
                "class_name": pa.array([r.class_name for r, _ in kept], pa.string()),
                "caption": pa.array([r.caption for r, _ in kept], pa.string()),
                "thumb": pa.array([item[1] for _, item in kept], pa.binary()),
                "features": pa.FixedSizeListArray.from_arrays(flat, size),
                "top5_classes": pa.array(list(order), pa.list_(pa.int32())),
                "top5_probabilities": pa.array(
                    list(np.take_along_axis(probabilities, order, 1)), pa.list_(pa.float32())
                ),
                "p_label": pa.array(p_label.astype(np.float32)),
                "collection": pa.array([self.tag] * count, pa.string()),
            }
        )


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
    rows = table.filter(pa.compute.equal(table["collection"], tag))
    if len(rows) == 0:
        raise UsageError(
            f"no image of the {tag} collection could be used: see the table 'rejected' for reasons"
        )
    column = rows["features"].combine_chunks()
    size = column.type.list_size
    features = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, size)
    captions, names = rows["caption"].to_pylist(), rows["class_name"].to_pylist()
    return Embedded(
        rows["id"].to_pylist(),
        rows["label"].to_numpy().astype(np.int64),
        [c or n or "" for c, n in zip(captions, names, strict=True)],
        np.asarray([top[0] for top in rows["top5_classes"].to_pylist()], dtype=np.int64),
        features.astype(np.float32),
    )
