"""The visualisations job: the image near grey in which a finding's component is strongest.

Neural PCA feature visualisations (whylens.guidance.visualisation). Readable where the classifier
is adversarially robust; for any classifier the probability that the image gets is evidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from whylens.cluster.kept import kept
from whylens.cluster.placement import Resources
from whylens.cluster.room import of_stage, settled
from whylens.cluster.session import session
from whylens.jobs.columns import columns, columns_of
from whylens.jobs.findings.stored import directions
from whylens.jobs.registry import Job
from whylens.jobs.spec import JobSpec, StageSettings
from whylens.jobs.stage import Batch, drop_others, in_batches, work_through
from whylens.runs.lineage import Lineage

if TYPE_CHECKING:
    from whylens.runs import Run

VISUALISATIONS = "visualisations"
SCHEMA = pa.schema(
    [
        *columns(pa.int32(), "class_index", "component"),
        ("npfv", pa.binary()),
        # Of the stored picture, and of plain grey, where it started.
        *columns(pa.float32(), "alpha", "p", "alpha_grey", "p_grey"),
        ("radius", pa.float32()),
        ("steps", pa.int32()),
    ]
)


class VisualisationSpec(StageSettings):
    """How components are visualised."""

    findings: int = Field(24, ge=1, description="Visualise this many findings, from the top.")
    steps: int = Field(
        50, ge=1, description="Auto-PGD steps: 50 tell the probability, 200 draw sharper pictures."
    )
    radius: float | None = Field(
        None,
        gt=0,
        description="L2 radius around grey; 30 at 224 pixels, scaled with the side, if none.",
    )
    batch: int = Field(8, ge=1, description="Findings that are visualised together.")


class VisualisationsJobSpec(JobSpec):
    """Feature visualisations of the findings of an exemplars or investigate job."""

    source: str = Field(description="Run folder of an exemplars or investigate job.")
    visualisations: VisualisationSpec = VisualisationSpec()


@dataclass(frozen=True)
class VisualisationTask:
    """One finding: alpha = <direction, phi> - offset, direction [D]."""

    class_index: int
    component: int
    direction: np.ndarray
    offset: float


def visualisations(
    run: Run,
    spec: VisualisationSpec,
    findings: Sequence[Mapping[str, Any]],
    directions: Mapping[tuple[int, int], tuple[np.ndarray, float]],
    *,
    classifier: str,
    placement: Resources,
) -> None:
    """The stage: what is missing of the table visualisations, for findings, the best first."""
    keys = [(row["class_index"], row["component"]) for row in findings[: spec.findings]]
    tasks = [VisualisationTask(*key, *directions[key]) for key in keys]
    placement = of_stage(spec.placement, placement)
    arguments = (run, spec, classifier, placement.device)
    units = in_batches(tasks, spec.batch, spec)
    drop_others(run, units, VISUALISATIONS, spec=spec)
    work_through(run, VISUALISATIONS, units, Visualiser, arguments, placement)


class Visualiser:
    """A worker: holds the classifier, visualises one unit's findings, writes its part."""

    def __init__(self, run: Run, spec: VisualisationSpec, classifier: str, device: str) -> None:
        """Load the classifier by name onto the device."""
        from whylens.classifiers import load_classifier

        self.run, self.spec = run, spec
        self.classifier = kept(load_classifier, classifier, device)

    def __call__(self, unit: Batch[VisualisationTask]) -> int:
        """Visualise the unit's findings; how many."""
        import torch

        from whylens.guidance.visualisation import radius_at, visualise
        from whylens.jobs.images.pictures import measured, png

        tasks, spec = unit.tasks, self.spec
        radius = spec.radius or radius_at(self.classifier.image_size)
        found = visualise(
            self.classifier,
            torch.from_numpy(np.stack([task.direction for task in tasks])),
            torch.tensor([task.offset for task in tasks]),
            steps=spec.steps,
            radius=radius,
        )
        rows = []
        for place, task in enumerate(tasks):
            features, probabilities = measured(self.classifier, found.images[place])
            alpha = float(features.double().cpu().numpy() @ task.direction) - task.offset
            rows.append(
                {
                    **columns_of(task, SCHEMA),
                    "npfv": png(found.images[place]),
                    "alpha": alpha,
                    "p": float(probabilities[task.class_index]),
                    "alpha_grey": float(found.grey_alphas[place]),
                    "p_grey": float(found.grey_probabilities[task.class_index]),
                    "radius": radius,
                    "steps": spec.steps,
                }
            )
        self.run.table(VISUALISATIONS).write(unit.name, pa.Table.from_pylist(rows, schema=SCHEMA))
        return len(rows)


def run(spec: VisualisationsJobSpec) -> Run:
    """Visualise the findings of a run."""
    with JOB.working(spec) as run:
        lineage = Lineage(run)
        findings = lineage.table("findings").read().to_pylist()
        findings.sort(key=lambda row: row["rank"])
        with session() as ray:
            visualisations(
                run,
                spec.visualisations,
                findings,
                directions(lineage, findings),
                classifier=str(lineage.setting("classifier")),
                placement=settled(ray, spec.placement),
            )
    return run


JOB = Job(
    name="visualisations",
    help="The image near grey in which a finding's component is strongest.",
    spec=VisualisationsJobSpec,
    run=run,
    tables=(VISUALISATIONS,),
    part="whylens.jobs.report.parts.findings:FINDINGS",
)
