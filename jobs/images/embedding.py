"""What becomes of a unit of images: decoded on a core, embedded on the device, written."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from whylens.cluster.kept import kept
from whylens.images import ImageCollection, Rejected, RejectedImageError
from whylens.images.eval_transform import EvalTransform
from whylens.images.tensors import thumbnail
from whylens.jobs.images.embedded import IMAGES, THUMBNAILS
from whylens.jobs.images.rejected import write_rejected
from whylens.runs import Run

# Pages show a few thumbnails of a part: so many are compressed together.
GROUP = 32
NOT_FINITE = "the classifier's features are not finite"


@dataclass(frozen=True, slots=True)
class ImageUnit:
    """A slice of a collection. It travels alone, and is cut when it does: a million of them take
    little more than their names."""

    name: str
    collection: ImageCollection
    which: slice | None = None

    @property
    def images(self) -> ImageCollection:
        """The slice, and nothing else of the collection."""
        return self.collection if self.which is None else self.collection.part(self.which)

    def __reduce__(self) -> tuple[Any, ...]:
        return ImageUnit, (self.name, self.images)


def decode(unit: ImageUnit, transform: EvalTransform, threads: int = 1) -> pa.Table:
    """A unit's images as a classifier is shown them, and thumbnails, or why an image is rejected.

    The table has the columns id, path, class_name, caption, reason (null for images that can be
    used), thumb (WebP) and pixels (size * size * 3 bytes), and the unit's name with its schema.
    """
    size, images = transform.size, unit.images

    def load(record: Any) -> tuple[str | None, bytes | None, bytes]:
        try:
            image = images.load(record)
        except RejectedImageError as error:
            return str(error), None, b"\0" * (3 * size * size)
        return None, thumbnail(image), transform(image).tobytes()

    records = list(images.records)
    with ThreadPoolExecutor(threads) as pool:
        reasons, thumbs, pixels = zip(*pool.map(load, records), strict=True)
    texts = {
        name: pa.array([getattr(record, name) for record in records], pa.string())
        for name in ("id", "path", "class_name", "caption")
    }
    return pa.table(
        {
            **texts,
            "reason": pa.array(reasons, pa.string()),
            "thumb": pa.array(thumbs, pa.binary()),
            "pixels": pa.array(pixels, pa.binary(3 * size * size)),
        }
    ).replace_schema_metadata({"unit": unit.name})


class Embedder:
    """A worker: embeds decoded units and writes their parts.

    Two threads may call it: one uses the device while the other prepares or writes.
    """

    def __init__(
        self,
        run: Run,
        classes: dict[str, int],
        tag: str,
        classifier: str,
        device: str,
        batch: int,
        captioner: str | None = None,
    ) -> None:
        """Load the classifier, and the captioner where one is named, onto the device."""
        from whylens.classifiers import load_classifier

        self.run, self.classes, self.tag, self.batch = run, classes, tag, batch
        self.classifier = kept(load_classifier, classifier, device)
        self.captioner = None
        if captioner is not None:
            from whylens.images.captioning import Captioner

            self.captioner = Captioner(captioner, device)
        self._device = threading.Lock()

    def __call__(self, decoded: pa.Table) -> int:
        """Embed what `decode` made of a unit; how many images were accepted."""
        unit = decoded.schema.metadata[b"unit"].decode()
        if self.run.table(IMAGES).done(unit):  # by a worker that died before it could say so
            return 0
        rejected = [
            Rejected(row["id"], row["path"], row["reason"])
            for row in decoded.filter(pc.is_valid(decoded["reason"]))
            .select(["id", "path", "reason"])
            .to_pylist()
        ]
        kept = decoded.filter(pc.is_null(decoded["reason"])) if rejected else decoded
        features, probabilities = self._forward(_pixels(kept))
        kept = self._captioned(kept).drop_columns(["pixels"])
        finite = np.isfinite(features).all(1)
        lost = kept.filter(pa.array(~finite)).select(["id", "path"]).to_pylist()
        rejected += [Rejected(row["id"], row["path"], NOT_FINITE) for row in lost]
        write_rejected(self.run, unit, rejected, self.tag)
        kept = kept.filter(pa.array(finite))
        part = self._part(kept, features[finite], probabilities[finite])
        # First, since the unit is done when its features are there.
        if not (thumbnails := self.run.table(THUMBNAILS)).done(unit):
            thumbs = kept.select(["id", "thumb"]).append_column("collection", part["collection"])
            thumbnails.write(unit, thumbs, group=GROUP)
        self.run.table(IMAGES).write(unit, part)
        return len(part)

    def _forward(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[N, S, S, 3] uint8 -> features [N, D] and probabilities [N, K], float32."""
        import torch

        size, classes = self.classifier.feature_size, len(self.classifier.class_names)
        features = [np.zeros((0, size), np.float32)]
        probabilities = [np.zeros((0, classes), np.float32)]
        with self._device, torch.inference_mode():
            for start in range(0, len(pixels), self.batch):
                # Bytes go to the device, a quarter of what floats would be.
                batch = torch.from_numpy(pixels[start : start + self.batch].copy())
                images = batch.to(self.classifier.device).permute(0, 3, 1, 2).float().div_(255)
                phi = self.classifier.features(images)
                features.append(phi.float().cpu().numpy())
                p = self.classifier.activation(self.classifier.head(phi))
                probabilities.append(p.float().cpu().numpy())
        return np.concatenate(features), np.concatenate(probabilities)

    def _captioned(self, kept: pa.Table) -> pa.Table:
        """The table with captions where images have none, if there is a captioner."""
        if self.captioner is None:
            return kept
        lacking = pc.or_kleene(pc.is_null(kept["caption"]), pc.equal(kept["caption"], ""))
        lacking = pc.fill_null(lacking, True)
        pixels = _pixels(kept.filter(lacking))
        found: list[str] = []
        with self._device:
            for start in range(0, len(pixels), self.batch):
                found += self.captioner(pixels[start : start + self.batch])
        captions = pc.replace_with_mask(kept["caption"], lacking, pa.array(found, pa.string()))
        return kept.set_column(kept.schema.get_field_index("caption"), "caption", captions)

    def _part(self, kept: pa.Table, features: np.ndarray, probabilities: np.ndarray) -> pa.Table:
        count, size = features.shape
        names = kept["class_name"].to_pylist()
        labels = np.asarray([self.classes.get(name, -1) for name in names], dtype=np.int32)
        top = min(5, probabilities.shape[1])
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
        p_label = np.where(
            labels >= 0, probabilities[np.arange(count), np.maximum(labels, 0)], np.nan
        )
        flat = pa.array(features.astype(np.float16).ravel())
        return pa.table(
            {
                "id": kept["id"],
                "path": kept["path"],
                "label": pa.array(labels, pa.int32()),
                "class_name": kept["class_name"],
                "caption": kept["caption"],
                "features": pa.FixedSizeListArray.from_arrays(flat, size),
                "top5_classes": pa.array(list(order), pa.list_(pa.int32())),
                "top5_probabilities": pa.array(
                    list(np.take_along_axis(probabilities, order, 1)), pa.list_(pa.float32())
                ),
                "p_label": pa.array(p_label.astype(np.float32)),
                "collection": pa.array([self.tag] * count, pa.string()),
            }
        )


def _pixels(table: pa.Table) -> np.ndarray:
    """The column pixels as [N, S, S, 3] uint8, not copied."""
    column = table["pixels"].combine_chunks()
    width = column.type.byte_width
    side = round((width / 3) ** 0.5)
    if not len(column):
        return np.zeros((0, side, side, 3), np.uint8)
    flat = np.frombuffer(column.buffers()[1], np.uint8, len(column) * width, column.offset * width)
    return flat.reshape(-1, side, side, 3)
