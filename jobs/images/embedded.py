"""The table of embedded images, read back: features, labels, captions."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from whylens.errors import UsageError
from whylens.runs.lineage import Lineage

IMAGES = "images"
THUMBNAILS = "thumbnails"
# What `read_embedded` reads of the table.
COLUMNS = ("id", "label", "class_name", "caption", "features", "top5_classes", "collection")
# What `shown_classes` reads of it, and whose images these are.
LABELS = ("id", "label", "top5_classes", "collection")


@dataclass(frozen=True)
class Embedded:
    """An images table in memory: ids [N], labels [N], features [N, D] float32; captions [N], and
    texts [N], the class's name where there is none; empty where nothing is known."""

    ids: list[str]
    labels: np.ndarray
    captions: list[str]
    texts: list[str]
    predicted: np.ndarray
    features: np.ndarray

    @property
    def largest_class(self) -> int:
        """The largest index of a class that labels or predictions name."""
        return max(int(self.labels.max()), int(self.predicted.max()))


def read_embedded(table: pa.Table, tag: str) -> Embedded:
    """The rows of one collection.

    Raises
    ------
    UsageError
        If there are none.
    """
    rows = table.filter(pc.equal(table["collection"], tag))
    if len(rows) == 0:
        raise no_images(tag)
    captions, names = (
        pc.if_else(pc.equal(rows[name], ""), None, rows[name]) for name in ("caption", "class_name")
    )
    return Embedded(
        rows["id"].to_pylist(),
        rows["label"].to_numpy().astype(np.int64),
        pc.coalesce(captions, "").to_pylist(),
        pc.coalesce(captions, names, "").to_pylist(),
        _predicted(rows),
        features_of(rows),
    )


def features_of(rows: pa.Table) -> np.ndarray:
    """Features [N, D] of rows, in float32."""
    column = rows["features"].combine_chunks()
    flat: np.ndarray = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(-1, column.type.list_size).astype(np.float32)


def read_captions(lineage: Lineage, wanted: Collection[str]) -> dict[str, str]:
    """Captions of the images that are wanted and have one, by id."""
    if not wanted or not lineage.has(IMAGES):
        return {}
    table = lineage.table(IMAGES).read(["id", "caption"])
    pairs = zip(table["id"].to_pylist(), table["caption"].to_pylist(), strict=True)
    return {image_id: caption for image_id, caption in pairs if caption and image_id in wanted}


def read_thumbnails(lineage: Lineage, wanted: Mapping[str, Collection[str]]) -> dict[str, bytes]:
    """Thumbnails (WebP) by image id, of the ids that are wanted of parts of the images' table."""
    holder = lineage.holder(IMAGES)
    found: dict[str, bytes] = {}
    for part, ids in wanted.items():
        table = holder.table(THUMBNAILS)
        if not table.done(part):  # of the schema 1, which had them among the features
            table = holder.table(IMAGES)
        rows = table.read_rows(part, "id", ids, ["id", "thumb"])
        found.update(zip(rows["id"].to_pylist(), rows["thumb"].to_pylist(), strict=True))
    return found


def thumbnails_of(lineage: Lineage, wanted: Collection[str]) -> dict[str, bytes]:
    """Thumbnails (WebP) by image id, of the ids that are wanted and have one."""
    images, names = lineage.table(IMAGES), pa.array(wanted, pa.string())
    by_part = {}
    for part in images.units():
        ids = images.read_part(part, ["id"])["id"]
        if found := ids.filter(pc.is_in(ids, value_set=names)).to_pylist():
            by_part[part] = found
    return read_thumbnails(lineage, by_part)


def collections_of(table: pa.Table) -> Iterator[tuple[str, Embedded]]:
    """Each collection that a part of the table holds images of: its tag, and the images."""
    for tag in sorted(table["collection"].unique().to_pylist()):
        yield tag, read_embedded(table, tag)


def no_images(tag: str) -> UsageError:
    """What is wrong where a collection has no image that can be used."""
    return UsageError(
        f"no image of the {tag} collection could be used: see the table 'rejected' for reasons"
    )


def labels_used(main: Embedded) -> np.ndarray:
    """The images' labels [N]; the prediction stands in for one that is missing."""
    return np.where(main.labels < 0, main.predicted, main.labels)


def shown_classes(rows: pa.Table) -> np.ndarray:
    """`labels_used` [N] of rows that are read without their features."""
    labels = rows["label"].to_numpy()
    return np.where(labels < 0, _predicted(rows), labels)


def _predicted(rows: pa.Table) -> np.ndarray:
    first: np.ndarray = pc.list_element(rows["top5_classes"], 0).to_numpy()
    return first.astype(np.int64)


def mined_collection(lineage: Lineage) -> str:
    """The tag of the collection that is mined for images which trigger a class."""
    return "second" if lineage.setting("second") else "main"
