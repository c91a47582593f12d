"""The generate job: images in which a finding's component rises, made from plain prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from whylens.cluster.placement import Placement
from whylens.cluster.session import session
from whylens.guidance.settings import GuidanceSettings
from whylens.jobs.checking import check_names
from whylens.jobs.findings.stored import directions
from whylens.jobs.guided import opinions, trajectory
from whylens.jobs.guided.spec import Against, StartingSpec
from whylens.jobs.guided.starts import TABLE as STARTS
from whylens.jobs.guided.starts import starts
from whylens.jobs.images import closest
from whylens.jobs.lineage import Lineage
from whylens.jobs.registry import Job
from whylens.jobs.stage import in_batches, work_through
from whylens.runs import Run

if TYPE_CHECKING:
    from whylens.guidance.optimiser import Solution

TABLE = "generated"
SCHEMA = pa.schema(
    [
        ("rank", pa.int32()),
        ("class_index", pa.int32()),
        ("component", pa.int32()),
        ("place", pa.int32()),
        ("kind", pa.string()),
        ("image", pa.binary()),
        ("start_image", pa.binary()),
        ("p_class", pa.float32()),
        ("p_start", pa.float32()),
        ("alpha", pa.float32()),
        ("alpha_start", pa.float32()),
        ("losses", pa.list_(pa.float32())),
        ("prompt", pa.string()),
        ("seed", pa.int64()),
        ("failed", pa.string()),
        ("difference", pa.binary()),
        *trajectory.FIELDS,
        opinions.FIELD,
        closest.FIELD,
    ]
)


class GenerateSpec(BaseModel):
    """How images are made for the findings."""

    model_config = ConfigDict(extra="forbid")

    findings: int = Field(8, ge=1, description="Generate for this many findings, from the top.")
    images: int = Field(4, ge=1, description="Images a finding.")
    batch: int = Field(8, ge=1, description="Images that are optimised together.")
    weight_log_p: float = Field(
        0.0, ge=0, description="Weight of the class's log probability beside the component."
    )
    seed: int = Field(0, ge=0, description="Seed of a finding's first image; the next adds one.")
    guidance: GuidanceSettings = Field(
        default_factory=GuidanceSettings.model_construct,
        description="How the images are optimised.",
    )


class GenerateJobSpec(StartingSpec):
    """Images of the findings of an exemplars or investigate job."""

    source: str = Field(description="Run folder of an exemplars or investigate job.")
    against: Against = Field(default_factory=list)
    generate: GenerateSpec = Field(
        default_factory=lambda: GenerateSpec(), description="How images are made."
    )


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


@dataclass(frozen=True)
class GenerateUnit:
    """A batch of images that are optimised together and written as one part."""

    name: str
    tasks: tuple[GenerateTask, ...]


def plan(
    findings: Sequence[Mapping[str, Any]],
    directions: Mapping[tuple[int, int], tuple[np.ndarray, float]],
    prompts: Mapping[tuple[int, int], str],
    spec: GenerateSpec,
) -> list[GenerateUnit]:
    """The units for the best-ranked findings.

    `directions` gives direction [D] and offset, `prompts` the start, by class index and component.
    Image i of every finding starts from the same seed, so that findings of a class can be compared.
    """
    best = sorted(findings, key=lambda row: row["rank"])[: spec.findings]
    tasks = []
    for row in best:
        key = (row["class_index"], row["component"])
        direction, offset = directions[key]
        tasks += [
            GenerateTask(
                row["rank"], *key, place, prompts[key], spec.seed + place, direction, offset
            )
            for place in range(spec.images)
        ]
    return [GenerateUnit(*named) for named in in_batches(tasks, spec.batch, spec)]


def generate(
    run: Run,
    lineage: Lineage,
    spec: GenerateSpec,
    findings: Sequence[Mapping[str, Any]],
    directions: Mapping[tuple[int, int], tuple[np.ndarray, float]],
    prompts: Mapping[tuple[int, int], str],
    *,
    sampler: str,
    classifier: str,
    against: Sequence[str],
    placement: Placement,
) -> None:
    """The stage: what is missing of the table generated, for rows of the table findings."""
    arguments = (run, lineage, spec, sampler, classifier, tuple(against), placement.device)
    units = plan(findings, directions, prompts, spec)
    work_through(run, TABLE, units, Generator, arguments, placement)


class Generator:
    """A worker: holds sampler and classifiers, makes one unit's images, writes its part."""

    def __init__(
        self,
        run: Run,
        lineage: Lineage,
        spec: GenerateSpec,
        sampler: str,
        classifier: str,
        against: Sequence[str],
        device: str,
    ) -> None:
        """Load sampler and classifiers by name onto the device."""
        from whylens.classifiers import load_classifier
        from whylens.diffusion import load_sampler

        self.run = run
        self.spec = spec
        self.sampler = load_sampler(sampler, device)
        self.classifier = load_classifier(classifier, device)
        others = {name: load_classifier(name, device) for name in against}
        self.classifiers = {classifier: self.classifier, **others}
        self.closest = closest.Closest(lineage, self.classifier)

    def __call__(self, unit: GenerateUnit) -> int:
        """Make the unit's images; how many."""
        import torch

        from whylens.guidance.objectives import ComponentObjective
        from whylens.guidance.optimiser import Problem, optimise

        device = self.sampler.device
        tasks = unit.tasks
        directions = torch.tensor(
            np.stack([task.direction for task in tasks]), dtype=torch.float32, device=device
        )
        offsets = torch.tensor([task.offset for task in tasks], device=device)
        classes = torch.tensor([task.class_index for task in tasks], device=device)
        objective = ComponentObjective(
            self.classifier,
            directions,
            offsets,
            weight_log_p=self.spec.weight_log_p,
            classes=classes,
        )
        problems = [Problem(prompt=task.prompt, seed=task.seed) for task in tasks]
        way = trajectory.Trajectory(self.spec.guidance.optimisation_steps)
        solutions = optimise(self.sampler, problems, objective, self.spec.guidance, way.on_step)
        rows = [
            {**self.row(task, solution), **way.columns(solution)}
            for task, solution in zip(tasks, solutions, strict=True)
        ]
        self.run.table(TABLE).write(unit.name, pa.Table.from_pylist(rows, schema=SCHEMA))
        return len(rows)

    def row(self, task: GenerateTask, solution: Solution) -> dict[str, Any]:
        """The table's row of one solution, its numbers measured on the stored pictures."""
        from whylens.jobs.images.pictures import difference, measured, png

        row: dict[str, Any] = {
            "rank": task.rank,
            "class_index": task.class_index,
            "component": task.component,
            "place": task.place,
            "kind": "component",
            "losses": [float(loss) for loss in solution.loss_trajectory],
            "prompt": task.prompt,
            "seed": task.seed,
            "failed": solution.failed,
            "probabilities": opinions.opinions(
                self.classifiers,
                [self.classifier.class_names[task.class_index]],
                solution.start_image,
                solution.image,
            ),
        }
        for image, name, p, alpha in (
            (solution.image, "image", "p_class", "alpha"),
            (solution.start_image, "start_image", "p_start", "alpha_start"),
        ):
            if image is None:
                continue
            features, probabilities = measured(self.classifier, image)
            row[name] = png(image)
            row[p] = float(probabilities[task.class_index])
            row[alpha] = float(features.double().cpu().numpy() @ task.direction) - task.offset
            if image is solution.image:
                row["closest"] = self.closest(features.float().cpu().numpy())
        if solution.image is not None and solution.start_image is not None:
            row["difference"] = png(difference(solution.start_image, solution.image))
        return row


def run(spec: GenerateJobSpec) -> Run:
    """Make images of a run's findings."""
    check_names(classifiers=spec.against, sampler=spec.sampler)
    run = JOB.start(spec)
    lineage = Lineage(run)
    findings = lineage.table("findings").read().to_pylist()
    arrows = directions(lineage, findings)
    classifier = str(lineage.setting("classifier"))
    with session():
        prompts = starts(
            run,
            lineage,
            spec.starts,
            findings,
            arrows,
            guidance=spec.generate.guidance,
            sampler=spec.sampler,
            classifier=classifier,
            placement=spec.placement,
        )
        generate(
            run,
            lineage,
            spec.generate,
            findings,
            arrows,
            prompts,
            sampler=spec.sampler,
            classifier=classifier,
            against=spec.against,
            placement=spec.placement,
        )
    run.finish()
    return run


JOB = Job(
    name="generate",
    help="Images in which a finding's component rises.",
    spec=GenerateJobSpec,
    run=run,
    tables=(STARTS, TABLE),
    part="whylens.jobs.report.parts.findings:FINDINGS",
)
