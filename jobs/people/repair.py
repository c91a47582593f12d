"""`whylens spufix`: repair a classifier by the spurious components of a run; save the repair."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.compute as pc
from pydantic import Field

from whylens import classifiers
from whylens.errors import UsageError
from whylens.jobs.findings.stored import components_of
from whylens.jobs.findings.verdicts import judged_rows
from whylens.jobs.images.embedded import (
    COLUMNS,
    IMAGES,
    Embedded,
    labels_used,
    mined_collection,
    read_embedded,
)
from whylens.jobs.people.labels import spurious_components
from whylens.neural_pca import refit, spufix, transfer, with_own_images
from whylens.runs import Run
from whylens.runs.lineage import Lineage
from whylens.settings import Settings


class RepairSpec(Settings):
    """What is repaired, and how."""

    source: str = Field(description="Run folder of a components or investigate job.")
    onto: str | None = Field(
        None,
        description="Run folder in which another classifier embedded the same images: it is "
        "repaired instead, with nothing but what was found in source.",
    )
    method: Literal["refit", "formula"] = Field(
        "refit",
        description="refit: the head is fitted again to training and mined images, and to the "
        "class's own of the mined collection; formula: max(alpha, 0) of each spurious component is "
        "taken from its class's logit.",
    )
    by: Literal["labels", "findings"] | None = Field(
        None,
        description="Which components are spurious: those that people labelled so, or the "
        "suspicious ones; labels where there are any, if not said.",
    )
    budget: float = Field(
        0.015,
        ge=0,
        le=1,
        description="refit: accuracy that may be lost on a part of the run's images, held out.",
    )
    out: str = Field(description="File to write, *.safetensors.")


@dataclass(frozen=True)
class Repair:
    """What was done: the repaired classifier's name, its spurious components, and accuracies.

    `before` and `after` are the accuracy on the run's images and on the mined ones (of those whose
    class is known), in [0, 1].
    """

    name: str
    base: str
    spurious: Mapping[int, Sequence[int]]
    before: dict[str, float]
    after: dict[str, float]

    def __str__(self) -> str:
        count = sum(len(components) for components in self.spurious.values())
        changes = (
            f"  accuracy on {what}: {self.before[name]:.1%} -> {self.after[name]:.1%}"
            for name, what in (("images", "the run's images"), ("mined", "mined images, own class"))
        )
        return "\n".join(
            [
                f"{self.base}: {count} spurious components of {len(self.spurious)} classes",
                *changes,
                f"Use it as the classifier {self.name}",
            ]
        )


def run(spec: RepairSpec) -> Repair:
    """Repair the classifier of a run and write the repair.

    Raises
    ------
    UsageError
        If nothing is spurious, the images of `onto` are others than those of `source`, or `out`
        is there already.
    """
    import torch

    from whylens.classifiers.repaired import repair, save_repaired

    out = Path(spec.out)
    if out.suffix != ".safetensors":
        raise UsageError(f"out: {spec.out} must end in .safetensors")
    if out.exists():
        raise UsageError(f"out: {spec.out} is there already: name another file, or remove it")
    lineage = Lineage(Run.open(spec.source))
    rows = judged_rows(lineage, ["mined_ids"])
    spurious = spurious_of(spec.source, rows, spec.by)
    repaired_run = Lineage(Run.open(spec.onto)) if spec.onto else lineage
    classifier = classifiers.load_classifier(str(repaired_run.setting("classifier")))
    seen = Seen(repaired_run, mined_collection(lineage))
    mined, mined_for = seen.mined(rows, spurious, repaired_run.runs[0].folder)
    weight, bias = classifier.head.arrays()
    labels = labels_used(seen.main)
    if spec.method == "refit":
        shown, shown_for = seen.shown(mined, mined_for)
        by: Any = refit(
            weight,
            bias,
            seen.main.features,
            labels,
            seen.pool.features[shown],
            seen.pool.labels[shown],
            shown_for,
            budget=spec.budget,
            device="cuda" if torch.cuda.is_available() else "cpu",
        )
        if by.share == 0:
            raise UsageError(
                f"budget: any repair costs more than {spec.budget:.1%} of accuracy on images held "
                "out: allow more, or name fewer components"
            )
    else:
        name = str(lineage.setting("classifier"))
        explained = classifiers.load_classifier(name) if spec.onto else classifier
        by = spufix([components_of(lineage, k, explained) for k in spurious], spurious)
        if spec.onto:
            first = read_embedded(lineage.table(IMAGES).read(COLUMNS), "main")
            others = seen.in_order_of(first)
            by = transfer(by, first.features, others, labels_used(first), weight)
    fixed = repair(classifier, by, f"spufix:{spec.out}")
    save_repaired(fixed, out)
    known = mined[seen.pool.labels[mined] >= 0]
    images = {
        "images": (seen.main.features, labels),
        "mined": (seen.pool.features[known], seen.pool.labels[known]),
    }

    def repaired(features: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            logits = fixed.repaired_head(torch.from_numpy(features).to(fixed.device))
        return np.asarray(logits.cpu())

    return Repair(
        fixed.name,
        classifier.name,
        spurious,
        {name: _accuracy(lambda phi: phi @ weight.T + bias, *of) for name, of in images.items()},
        {name: _accuracy(repaired, *of) for name, of in images.items()},
    )


def spurious_of(
    source: str, rows: Sequence[Mapping[str, Any]], by: Literal["labels", "findings"] | None = None
) -> dict[int, list[int]]:
    """The spurious components of each class: those that people labelled, else the suspicious rows.

    Raises
    ------
    UsageError
        If there are none.
    """
    labelled = spurious_components(source) if by != "findings" else {}
    if labelled or by == "labels":
        found = labelled
    else:
        found = {}
        for row in rows:
            if row["suspicious"]:
                found.setdefault(row["class_index"], []).append(row["component"])
    if not found:
        raise UsageError(
            f"nothing in {source} is "
            + ("labelled spurious: see whylens labels" if by == "labels" else "suspicious")
        )
    return {k: sorted(components) for k, components in sorted(found.items())}


class Seen:
    """A run's embedded images: those to explain, and those that were mined (`pool`)."""

    def __init__(self, lineage: Lineage, pool: str) -> None:
        table = lineage.table(IMAGES).read(COLUMNS)
        if not pc.any(pc.equal(table["collection"], pool)).as_py():
            raise UsageError(
                f"{lineage.runs[0].folder} holds no images of a {pool} collection: embed the same "
                "collections as in source"
            )
        self.main = read_embedded(table, "main")
        self.pool = read_embedded(table, pool)
        self._explained = pool == "main"
        self._place = {name: row for row, name in enumerate(self.pool.ids)}

    def mined(
        self,
        rows: Sequence[Mapping[str, Any]],
        spurious: Mapping[int, Sequence[int]],
        folder: str,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the pool that were mined for spurious components, and for which class each."""
        pairs = {
            (image, row["class_index"])
            for row in rows
            if row["component"] in spurious.get(row["class_index"], ())
            for image in row["mined_ids"]
        }
        lost = sorted(image for image, _ in pairs if image not in self._place)
        if lost:
            raise UsageError(
                f"{folder} did not embed {len(lost)} of the mined images, {lost[0]} for one: "
                "embed the same collections as in source"
            )
        found = sorted((self._place[image], k) for image, k in pairs)
        return np.array([i for i, _ in found], int), np.array([k for _, k in found], int)

    def shown(self, mined: np.ndarray, mined_for: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the pool that refit is shown, and for which class each was mined (-1: none).

        Where the images to explain were mined themselves, refit sees all of them anyway.
        """
        if self._explained:
            return mined, mined_for
        return with_own_images(mined, mined_for, self.pool.labels)

    def in_order_of(self, other: Embedded) -> np.ndarray:
        """The features of another run's images."""
        places = {name: row for row, name in enumerate(self.main.ids)}
        if lost := [name for name in other.ids if name not in places]:
            raise UsageError(f"{len(lost)} of source's images are not in onto, {lost[0]} for one")
        return self.main.features[[places[name] for name in other.ids]]


def _accuracy(
    logits: Callable[[np.ndarray], np.ndarray], features: np.ndarray, labels: np.ndarray
) -> float:
    return float((logits(features).argmax(1) == labels).mean()) if len(labels) else float("nan")
