"""The errors job: real mistakes of a labelled collection, in slices that are alike.

Each slice comes with its rate, the components of the class's logit that lead to it, a name, and the
counterfactuals of its images that mend it. A class that images are wrongly called is a unit.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from whylens.cluster.placement import Resources
from whylens.errors import UsageError
from whylens.jobs.columns import columns
from whylens.jobs.findings.head import Head
from whylens.jobs.findings.stored import COMPONENTS, components_of
from whylens.jobs.images.embedded import IMAGES
from whylens.jobs.images.rejected import REJECTED, write_unreadable
from whylens.jobs.registry import Job
from whylens.jobs.slices.shown import EXEMPLAR, KEY, TOLD, exemplars, indexed, told
from whylens.jobs.spec import JobSpec
from whylens.jobs.stage import Batch, drop_others, in_batches, work_through
from whylens.neural_pca.slices import leading_components, slices
from whylens.neural_pca.systematic import SystematicError
from whylens.runs import Run
from whylens.runs.lineage import Lineage
from whylens.settings import Settings

SLICES, MISTAKES = "slices", "mistakes"
MENDED = pa.struct(
    [("image_id", pa.string()), *columns(pa.binary(), "before", "after"), ("p", pa.float32())]
)
SCHEMAS = {
    SLICES: pa.schema(
        [*KEY, ("slice", pa.int32()), *TOLD, ("labels", pa.list_(pa.string())),
         ("components", pa.list_(pa.int32())), ("shares", pa.list_(pa.float64())),
         ("image_ids", pa.list_(pa.string())), ("exemplars", pa.list_(EXEMPLAR)),
         ("mended", pa.list_(MENDED))]
    ),
    MISTAKES: pa.schema([*KEY, *columns(pa.int32(), "others", "mistaken", "in_slices")]),
}  # fmt: skip
# What is read of counterfactuals.
CHANGES = "counterfactuals"
CHANGED = ("image_id", "target_class", "flipped", "p_target_after", "before", "after")
# Components and true classes that are named, and counterfactuals that are kept, at most.
NAMED, KEPT = 3, 4


class ErrorSettings(Settings):
    """Which mistakes, and what is a slice of them."""

    collection: str = Field("main", pattern="^(main|second)$", description="main, or second.")
    classes: list[str] = Field(
        [], description="Classes that images are called; empty: all that enough wrongly are."
    )
    least: int = Field(10, ge=2, description="Images of a slice, at least.")
    exemplars: int = Field(12, ge=1, description="Images kept to show a slice, at most.")


class ErrorsSpec(JobSpec):
    """Slices of the mistakes on a labelled collection."""

    source: str = Field(
        description="Run folder of an embed job, or of one that builds on it: components and "
        "counterfactuals that it has are shown with the slices."
    )
    errors: ErrorSettings = Field(ErrorSettings(), description="Which mistakes.")


@dataclass(frozen=True)
class CalledTask:
    """A class that images are wrongly called."""

    class_index: int


def errors(run: Run, lineage: Lineage, settings: ErrorSettings, placement: Resources) -> None:
    """The stage: what is missing of the tables slices and mistakes.

    Raises
    ------
    UsageError
        If no image has a label, or a class is unknown.
    """
    from whylens.classifiers import describe

    classifier = describe(str(lineage.setting("classifier")))
    seen = lineage.table(IMAGES).read(["label", "top5_classes", "collection"])
    seen = seen.filter(pc.equal(seen["collection"], settings.collection))
    labels = seen["label"].to_numpy()
    if not (labels >= 0).any():
        raise UsageError(
            f"no image of the {settings.collection} collection has a label: mistakes are known of "
            "labelled images only; confirm searches others"
        )
    called = pc.list_element(seen["top5_classes"], 0).to_numpy()
    wrong = Counter(called[(labels >= 0) & (called != labels)].tolist())
    wanted = [classifier.class_index(name) for name in settings.classes] or sorted(
        k for k, count in wrong.items() if count >= settings.least
    )
    tasks = [CalledTask(k) for k in wanted]
    arguments = (run, lineage, settings)
    placement = placement.without_gpus
    made_from = [lineage.parts(name) for name in (IMAGES, COMPONENTS, CHANGES)]
    units = in_batches(tasks, 1, settings, made_from)
    drop_others(run, units, *SCHEMAS, REJECTED, spec=settings)
    work_through(run, MISTAKES, units, Slicer, arguments, placement)


class Slicer:
    """A worker: holds the index of the collection, slices the mistakes of one class a call."""

    def __init__(self, run: Run, lineage: Lineage, settings: ErrorSettings) -> None:
        """Open the index and the collection, read labels, captions and counterfactuals."""
        from whylens.classifiers import load_classifier

        self.run, self.lineage, self.settings = run, lineage, settings
        self.classifier = load_classifier(str(lineage.setting("classifier")))
        self.images, self.index, self.labels, self.captions = indexed(
            lineage, settings.collection, self.classifier
        )
        self.features = self.index.features(np.arange(len(self.labels)))
        self.p = Head.of(self.classifier).probabilities(self.features)
        self.changed = lineage.rows(CHANGES, CHANGED)

    def __call__(self, unit: Batch[CalledTask]) -> int:
        """Slice the mistakes of the unit's class, write them; how many slices."""
        (task,) = unit.tasks
        k = task.class_index
        others = (self.labels >= 0) & (self.labels != k)
        predicted = self.p.argmax(1)
        found = slices(
            self.index, self.labels, predicted, self.p[:, k], k, least=self.settings.least
        )
        key = {"class_index": k, "class_name": self.classifier.class_names[k]}
        mean = self.features[others].mean(0, dtype=np.float64)
        rows = [{**key, **self._slice(*one, k, mean)} for one in enumerate(found)]
        write_unreadable(self.run, unit.name, self.images)
        self.run.table(SLICES).write(unit.name, pa.Table.from_pylist(rows, schema=SCHEMAS[SLICES]))
        row = {
            **key,
            "others": int(others.sum()),
            "mistaken": int((others & (predicted == k)).sum()),
            "in_slices": sum(len(one.rows) for one in found),
        }
        self.run.table(MISTAKES).write(
            unit.name, pa.Table.from_pylist([row], schema=SCHEMAS[MISTAKES])
        )
        return len(rows)

    def _slice(
        self, place: int, found: SystematicError, k: int, mean: np.ndarray
    ) -> dict[str, Any]:
        names = self.classifier.class_names
        ids = [self.index.ids[row] for row in found.rows]
        shown = found.rows[: self.settings.exemplars]
        truth = [names[self.labels[row]] for row in found.rows]
        components, shares = np.zeros(0, np.int64), np.zeros(0)
        if self.lineage.has(COMPONENTS):
            try:
                of = components_of(self.lineage, k, self.classifier)
            except UsageError:  # the class has too few images for components
                pass
            else:
                components, shares = leading_components(
                    of, self.features[found.rows].mean(0, dtype=np.float64), mean
                )
        inside = set(ids)
        mended = [
            {
                "image_id": row["image_id"],
                "before": row["before"],
                "after": row["after"],
                "p": row["p_target_after"],
            }
            for row in self.changed
            if row["image_id"] in inside and row["flipped"] and row["after"]
            and row["target_class"] == self.labels[self.index.row_of(row["image_id"])]
        ]  # fmt: skip
        return {
            "slice": place,
            **told(found, self.captions),
            "labels": [name for name, _ in Counter(truth).most_common(NAMED)],
            "components": components[:NAMED].tolist(),
            "shares": shares[:NAMED].tolist(),
            "image_ids": ids,
            "exemplars": exemplars(
                self.images, ids[: len(shown)], self.p[shown, k].tolist(), truth[: len(shown)]
            ),
            "mended": mended[:KEPT],
        }


def run(spec: ErrorsSpec) -> Run:
    """Slice the mistakes of a run."""
    with JOB.on_workers(spec) as (run, lineage, placement):
        errors(run, lineage, spec.errors, placement)
    return run


JOB = Job(
    name="errors",
    help="Real mistakes, in slices that are alike.",
    spec=ErrorsSpec,
    run=run,
    tables=(REJECTED, SLICES, MISTAKES),
    show="whylens.jobs.slices.terminal:show_slices",
    part="whylens.jobs.report.parts.slices:SLICES",
)
