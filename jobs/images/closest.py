"""The images of a run that a generated image is closest to, in the classifier's features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from whylens.jobs.images.embedded import IMAGES, read_thumbnails
from whylens.jobs.images.index import index_of
from whylens.neural_pca.queries import nearest
from whylens.runs.lineage import Lineage

if TYPE_CHECKING:
    from whylens.classifiers import Classifier

FIELD = (
    "closest",
    pa.list_(
        pa.struct([("image_id", pa.string()), ("distance", pa.float32()), ("thumb", pa.binary())])
    ),
)
COUNT = 4


class Closest:
    """Answers from the run's index, or from its table of features where no index job ran."""

    def __init__(self, lineage: Lineage, classifier: Classifier) -> None:
        self.classifier = classifier
        self.lineage = lineage
        self.index = index_of(lineage, "main", classifier)
        # Which part holds an image: thumbnails are read of those parts only.
        images = lineage.table(IMAGES)
        self.part_of = {
            image_id: part
            for part in images.units()
            for image_id in images.read(["id"], [part])["id"].to_pylist()
        }

    def __call__(self, features: np.ndarray) -> list[dict[str, Any]]:
        """The nearest images to features [D], the nearest first, as rows of `FIELD`."""
        found = nearest(self.index, features, COUNT)
        thumbs = self.thumbs(found.ids)
        return [
            {"image_id": image_id, "distance": float(distance), "thumb": thumbs.get(image_id)}
            for image_id, distance in zip(found.ids, found.values, strict=True)
        ]

    def thumbs(self, ids: tuple[str, ...]) -> dict[str, bytes]:
        """Thumbnails by image id."""
        wanted: dict[str, list[str]] = {}
        for image_id in ids:
            if image_id in self.part_of:
                wanted.setdefault(self.part_of[image_id], []).append(image_id)
        return read_thumbnails(self.lineage, wanted)
