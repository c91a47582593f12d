"""The foreground job: does a classifier look at the object, or at the rest of the picture?

Of a collection that says where its objects are: accuracy as it is, under noise on the object, and
under noise on everything else. Their relative foreground sensitivity is in the report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np
import pyarrow as pa
from pydantic import Field

from whylens.cluster.kept import kept
from whylens.errors import UsageError
from whylens.images import ImageCollection, labels_of, match_classes, open_collection
from whylens.images.tensors import to_tensor
from whylens.jobs.checking import check_names
from whylens.jobs.columns import columns
from whylens.jobs.images.rejected import REJECTED, ReadableImages, write_rejected, write_unreadable
from whylens.jobs.registry import Job
from whylens.jobs.spec import JobSpec
from whylens.jobs.stage import Batch, in_batches, work_through
from whylens.runs import Run
from whylens.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

TABLE = "foreground"
SCHEMA = pa.schema(
    [
        *columns(pa.string(), "image_id", "class_name"),
        ("class_index", pa.int32()),
        # How often the image is called its class: as it is (0 or 1), and of the trials with noise.
        *columns(pa.float64(), "plain", "noisy_object", "noisy_rest"),
    ]
)
# Images that a classifier sees together.
BATCH = 64


class ForegroundSettings(Settings):
    """The noise."""

    sigma: float = Field(0.25, gt=0, description="Its standard deviation, for images in [0, 1].")
    trials: int = Field(3, ge=1, description="Draws of it for each image.")
    seed: int = Field(0, ge=0, description="Seed of the draws.")


class ForegroundSpec(JobSpec):
    """Accuracy under noise on the object, and off it."""

    classifier: str = Field(description="A classifier by name.")
    images: str = Field(
        description="Labelled images that come with masks of their objects: "
        "hardimagenet:IMAGENET?masks=FOLDER, or planted:<split>?count=N&seed=S."
    )
    foreground: ForegroundSettings = Field(ForegroundSettings(), description="The noise.")


class Looker:
    """A worker: holds classifier and collection, looks at the images of a unit."""

    def __init__(
        self,
        run: Run,
        name: str,
        collection: ImageCollection,
        settings: ForegroundSettings,
        device: str,
    ) -> None:
        """Load the classifier."""
        from whylens.classifiers import load_classifier

        self.run, self.images, self.settings = run, ReadableImages(collection, "main"), settings
        self.classifier = kept(load_classifier, name, device)

    def __call__(self, unit: Batch[tuple[str, int]]) -> int:
        """Look at (image id, class) pairs, write what is right; how many have a mask."""
        loaded = self.images.load([name for name, _ in unit.tasks])
        known = self.images.masks(loaded)
        self.images.without_mask(loaded, known)
        ids, labels, images, masks = [], [], [], []
        for name, label in unit.tasks:
            if name not in known:
                continue
            ids.append(name)
            labels.append(label)
            images.append(to_tensor(self.classifier.eval_transform(loaded[name])))
            # A mask goes the way of its image; what the object touches at all is object.
            levels = np.repeat(known[name][..., None].astype(np.uint8) * 255, 3, 2)
            shown = replace(self.classifier.eval_transform, fill=(0, 0, 0))(levels)
            masks.append((to_tensor(shown)[:1] > 0).float())
        rows = [
            {
                "image_id": name,
                "class_name": self.classifier.class_names[label],
                "class_index": label,
                "plain": plain,
                "noisy_object": on,
                "noisy_rest": off,
            }
            for name, label, (plain, on, off) in zip(
                ids, labels, self._right(ids, labels, images, masks), strict=True
            )
        ]
        write_unreadable(self.run, unit.name, self.images)
        self.run.table(TABLE).write(unit.name, pa.Table.from_pylist(rows, schema=SCHEMA))
        return len(rows)

    def _right(
        self,
        ids: Sequence[str],
        labels: Sequence[int],
        images: Sequence[Tensor],
        masks: Sequence[Tensor],
    ) -> list[tuple[float, float, float]]:
        """How often each image is called its class: plain, noise on the object, noise off it."""
        import torch

        from whylens.classifiers.foreground import noisy

        found = []
        for name, label, image, mask in zip(ids, labels, images, masks, strict=True):
            # Draws are the image's own, whatever unit it is in.
            seed = self.settings.seed + crc32(name.encode())
            generator = torch.Generator().manual_seed(seed)
            trials = [
                noisy(image[None], mask[None], self.settings.sigma, generator)
                for _ in range(self.settings.trials)
            ]
            shown = torch.cat([image[None], *(on for on, _ in trials), *(off for _, off in trials)])
            with torch.inference_mode():
                parts = torch.split(shown.to(self.classifier.device), BATCH)
                said = torch.cat([self.classifier.logits(part).argmax(1) for part in parts])
            right = (said == label).double().cpu()
            on, off = right[1:].chunk(2)
            found.append((float(right[0]), float(on.mean()), float(off.mean())))
        return found


def run(spec: ForegroundSpec) -> Run:
    """Look at the images of a collection with masks.

    Raises
    ------
    UsageError
        If no image has a class that the classifier knows, or none says where its object is.
    """
    (classifier,) = check_names(classifiers=[spec.classifier])
    collection = open_collection(spec.images)
    known = match_classes(collection.records.class_names(), classifier.class_names)
    labels = labels_of(collection.records, known)
    tasks = [
        (record.id, int(label))
        for record, label in zip(collection.records, labels, strict=True)
        if label >= 0
    ]
    if not tasks:
        raise UsageError(f"no image of {spec.images} has a class that {classifier.name} knows")
    with JOB.on_workers(spec) as (run, _, placement):
        arguments = (run, spec.classifier, collection, spec.foreground, placement.device)
        write_rejected(run, "main-listing", collection.rejected, "main")
        units = in_batches(tasks, BATCH, spec.foreground)
        work_through(run, TABLE, units, Looker, arguments, placement)
        if not run.table(TABLE).read(["image_id"]).num_rows:
            raise UsageError(
                f"no image of {spec.images} says where its object is: name a collection with "
                f"masks. The table {REJECTED} in {run.folder} says of each why not"
            )
    return run


JOB = Job(
    name="foreground",
    help="Whether a classifier looks at the object or the rest.",
    spec=ForegroundSpec,
    run=run,
    tables=(REJECTED, TABLE),
    part="whylens.jobs.report.parts.foreground:FOREGROUND",
)
