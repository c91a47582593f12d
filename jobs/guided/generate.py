"""The generate job: images in which a finding's component rises, made from plain prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from whylens.cluster.session import session
from whylens.guidance.settings import GuidanceSettings
from whylens.jobs.checking import check_names
from whylens.jobs.columns import columns, columns_of
from whylens.jobs.findings.stored import directions
from whylens.jobs.guided.models import Models
from whylens.jobs.guided.spec import Against, StartingSpec
from whylens.jobs.guided.starts import STARTS, starts
from whylens.jobs.guided.worker import SHARED, GuidedWorker, Made
from whylens.jobs.registry import Job
from whylens.jobs.spec import StageSettings
from whylens.jobs.stage import Batch, BatchSize, drop_others, in_batches, work_through
from whylens.runs import Run
from whylens.runs.lineage import Lineage

TABLE = "generated"
SCHEMA = pa.schema(
    [
        *columns(pa.int32(), "rank", "class_index", "component", "place"),
        ("kind", pa.string()),
        *columns(pa.binary(), "image", "start_image"),
        *columns(pa.float32(), "p_class", "p_start", "alpha", "alpha_start"),
        ("prompt", pa.string()),
        ("seed", pa.int64()),
        *SHARED,
    ]
)


class GenerateSpec(StageSettings):
    """How images are made for the findings."""

    findings: int = Field(8, ge=1, description="Generate for this many findings, from the top.")
    images: int = Field(4, ge=1, description="Images a finding.")
    batch: BatchSize = 8
    weight_log_p: float = Field(
        0.0, ge=0, description="Weight of the class's log probability beside the component."
    )
    seed: int = Field(0, ge=0, description="Seed of a finding's first image; the next adds one.")
    guidance: GuidanceSettings = Field(
        GuidanceSettings(),
        description="How the images are optimised.",
    )


class GenerateJobSpec(StartingSpec):
    """Images of the findings of an exemplars or investigate job."""

    source: str = Field(description="Run folder of an exemplars or investigate job.")
    against: Against = Field([])
    generate: GenerateSpec = Field(GenerateSpec(), description="How images are made.")


@dataclass(frozen=True)
class GenerateTask:
    """One image to make: `direction` [D] and `offset` give alpha = <direction, phi> - offset."""

    rank: int
    class_index: int
    component: int
    place: int
    prompt: str
    seed: int
    direction: np.ndarray
    offset: float


def plan(
    findings: Sequence[Mapping[str, Any]],
    directions: Mapping[tuple[int, int], tuple[np.ndarray, float]],
    prompts: Mapping[tuple[int, int], str],
    spec: GenerateSpec,
) -> list[Batch[GenerateTask]]:
    """The units for the best-ranked findings.

    `directions` gives direction [D] and offset, `prompts` the start, by class index and component;
    a finding whose prompts could not be tried has no image. Image i of every finding starts from
    the same seed, so that findings of a class can be compared.
    """
    best = sorted(findings, key=lambda row: row["rank"])[: spec.findings]
    tasks = []
    for row in best:
        if (key := (row["class_index"], row["component"])) not in prompts:
            continue
        direction, offset = directions[key]
        tasks += [
            GenerateTask(
                row["rank"], *key, place, prompts[key], spec.seed + place, direction, offset
            )
            for place in range(spec.images)
        ]
    return in_batches(tasks, spec.batch, spec)


def generate(
    run: Run,
    lineage: Lineage,
    spec: GenerateSpec,
    models: Models,
    findings: Sequence[Mapping[str, Any]],
    directions: Mapping[tuple[int, int], tuple[np.ndarray, float]],
    prompts: Mapping[tuple[int, int], str],
) -> None:
    """The stage: what is missing of the table generated, for rows of the table findings."""
    units, models = plan(findings, directions, prompts, spec), models.of_stage(spec.placement)
    drop_others(run, units, TABLE, spec=spec)
    work_through(run, TABLE, units, Generator, (run, lineage, models, spec), models.placement)


class Generator(GuidedWorker[GenerateSpec]):
    """A worker: makes one unit's images, writes its part."""

    def __call__(self, unit: Batch[GenerateTask]) -> int:
        """Make the unit's images; how many."""
        import torch

        from whylens.guidance.objectives import ComponentObjective

        tasks, device = unit.tasks, self.sampler.device
        objective = ComponentObjective(
            self.classifier,
            torch.tensor(
                np.stack([task.direction for task in tasks]), dtype=torch.float32, device=device
            ),
            torch.tensor([task.offset for task in tasks], device=device),
            weight_log_p=self.spec.weight_log_p,
            classes=torch.tensor([task.class_index for task in tasks], device=device),
        )
        prompts, seeds = [task.prompt for task in tasks], [task.seed for task in tasks]
        made = self.from_prompts(prompts, seeds, objective, self.spec.guidance)
        names = self.classifier.class_names
        rows = [
            {
                **self.row(task, one),
                **self.columns(one, objective.name, [names[task.class_index]]),
            }
            for task, one in zip(tasks, made, strict=True)
        ]
        return self.write(TABLE, unit.name, SCHEMA, rows)

    def row(self, task: GenerateTask, made: Made) -> dict[str, Any]:
        """The columns that are this job's own."""
        row = {**columns_of(task, SCHEMA), "kind": "component"}
        for picture, name, p, alpha in (
            (made.after, "image", "p_class", "alpha"),
            (made.before, "start_image", "p_start", "alpha_start"),
        ):
            if picture is not None:
                row[name] = picture.png
                row[p] = picture.probability(self.classifier, task.class_index)
                features = picture.features(self.classifier)
                row[alpha] = float(features @ task.direction) - task.offset
        return row


def run(spec: GenerateJobSpec) -> Run:
    """Make images of a run's findings."""
    check_names(classifiers=spec.against, sampler=spec.sampler)
    with JOB.working(spec) as run:
        lineage = Lineage(run)
        models = Models(spec.sampler, str(lineage.setting("classifier")), spec.against)
        findings = lineage.table("findings").read().to_pylist()
        arrows, chain = directions(lineage, findings), spec.generate.guidance.chain
        with session() as ray:
            models = models.on(ray, spec.placement)
            prompts = starts(run, lineage, spec.starts, chain, models, findings, arrows)
            generate(run, lineage, spec.generate, models, findings, arrows, prompts)
    return run


JOB = Job(
    name="generate",
    help="Images in which a finding's component rises.",
    spec=GenerateJobSpec,
    run=run,
    tables=(STARTS, TABLE),
    part="whylens.jobs.report.parts.findings:FINDINGS",
)
