"""The disagreements job: images that one classifier calls a class and another does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from pydantic import Field

from whylens.cluster.session import session
from whylens.errors import UsageError
from whylens.jobs.checking import check_names
from whylens.jobs.classes import same_class
from whylens.jobs.columns import columns, columns_of
from whylens.jobs.findings.stored import directions
from whylens.jobs.guided.disagreement_plan import (
    DisagreementSpec,
    DisagreementTask,
    Plain,
    ScoutUnit,
    plan,
    scouting,
)
from whylens.jobs.guided.models import Models
from whylens.jobs.guided.spec import StartingSpec
from whylens.jobs.guided.starts import STARTS, starts
from whylens.jobs.guided.worker import SHARED, GuidedWorker, Made
from whylens.jobs.registry import Job
from whylens.jobs.stage import Batch, drop_others, work_through
from whylens.runs import Run
from whylens.runs.lineage import Lineage

TABLE = "disagreements"
SCOUTED = "scouted"
SCOUTED_SCHEMA = pa.schema(
    [
        *columns(pa.string(), "class_name", "prompt"),
        ("seed", pa.int64()),
        ("image", pa.binary()),
        ("classifier", pa.string()),
        ("p", pa.float32()),
    ]
)
SCHEMA = pa.schema(
    [
        ("class_index", pa.int32()),
        *columns(pa.string(), "class_name", "classifier_a", "classifier_b"),
        ("place", pa.int32()),
        *columns(pa.binary(), "image", "start_image"),
        *columns(pa.float32(), "p_a", "p_b", "p_a_start", "p_b_start"),
        ("prompt", pa.string()),
        ("seed", pa.int64()),
        *SHARED,
    ]
)


class DisagreementsJobSpec(StartingSpec):
    """Images on which classifiers disagree."""

    source: str | None = Field(
        None, description="Run folder of an exemplars or investigate job, for its findings."
    )
    classifier: str = Field(description="The classifier that says the class.")
    against: list[str] = Field(min_length=1, description="Classifiers that do not, one or more.")
    disagreements: DisagreementSpec = Field(
        DisagreementSpec(), description="On which classes, and how."
    )


def disagreements(
    run: Run,
    lineage: Lineage,
    spec: DisagreementSpec,
    models: Models,
    findings: Sequence[Mapping[str, Any]],
    prompts: Mapping[tuple[int, int], str],
) -> None:
    """The stages scouted and disagreements: what is missing of both tables."""
    from whylens.classifiers import describe

    classifiers = {name: describe(name) for name in models.classifiers}
    scouts = scouting(findings, prompts, classifiers, spec)
    models = models.of_stage(spec.placement)
    arguments = (run, lineage, models, spec)
    drop_others(run, scouts, SCOUTED, spec=spec)
    work_through(run, SCOUTED, scouts, Scout, arguments, models.placement)
    units = plan(scouted(run, [unit.name for unit in scouts]), classifiers, spec)
    drop_others(run, units, TABLE, spec=spec)
    work_through(run, TABLE, units, Divider, arguments, models.placement)


def scouted(run: Run, units: Sequence[str]) -> dict[str, list[Plain]]:
    """The plain images of each class, in the units' order; a class whose unit failed has none."""
    table, found = run.table(SCOUTED), dict[str, list[Plain]]()
    for unit in units:
        if not table.done(unit):
            continue
        rows = table.read(["class_name", "prompt", "seed", "classifier", "p"], [unit]).to_pylist()
        seen: dict[tuple[str, int], dict[str, float]] = {}
        for row in rows:
            seen.setdefault((row["prompt"], row["seed"]), {})[row["classifier"]] = row["p"]
        found[rows[0]["class_name"]] = [Plain(*key, p) for key, p in seen.items()]
    return found


class Scout(GuidedWorker[DisagreementSpec]):
    """A worker: makes plain images of a class's prompts, asks every classifier, writes its part."""

    def __call__(self, unit: ScoutUnit) -> int:
        """Make the unit's plain images; how many."""
        seeds = [self.spec.seed + place for place in range(self.spec.scout)]
        starts = [(prompt, seed) for prompt in unit.prompts for seed in seeds]
        prompts, numbers = zip(*starts, strict=True)
        pictures = self.plain(prompts, numbers, self.spec.guidance.chain)
        rows = [
            {
                "class_name": unit.class_name,
                "prompt": prompt,
                "seed": seed,
                "image": picture.png,
                "classifier": name,
                "p": picture.probability(classifier, k),
            }
            for (prompt, seed), picture in zip(starts, pictures, strict=True)
            for name, classifier in self.classifiers.items()
            if (k := same_class(unit.class_name, classifier)) is not None
        ]
        self.write(SCOUTED, unit.name, SCOUTED_SCHEMA, rows)
        return len(starts)


class Divider(GuidedWorker[DisagreementSpec]):
    """A worker: makes one unit's images, writes its part."""

    def __call__(self, unit: Batch[DisagreementTask]) -> int:
        """Make the unit's images; how many."""
        import torch

        from whylens.guidance.objectives import Vote, disagreement_among

        tasks, device = unit.tasks, self.sampler.device
        of_a = torch.tensor([task.class_a for task in tasks], device=device)
        of_b = torch.tensor([task.class_b for task in tasks], device=device)
        objective = disagreement_among(
            [Vote(self.classifiers[tasks[0].a], of_a)],
            [Vote(self.classifiers[tasks[0].b], of_b)],
            self.spec.form,
        )
        prompts, seeds = [task.prompt for task in tasks], [task.seed for task in tasks]
        made = self.from_prompts(prompts, seeds, objective, self.spec.guidance)
        rows = [
            {**self.row(task, one), **self.columns(one, objective.name, [task.class_name])}
            for task, one in zip(tasks, made, strict=True)
        ]
        return self.write(TABLE, unit.name, SCHEMA, rows)

    def row(self, task: DisagreementTask, made: Made) -> dict[str, Any]:
        """The columns that are this job's own."""
        row = {
            **columns_of(task, SCHEMA),
            "class_index": task.class_a,
            "classifier_a": task.a,
            "classifier_b": task.b,
        }
        for picture, name, suffix in (
            (made.after, "image", ""),
            (made.before, "start_image", "_start"),
        ):
            if picture is not None:
                row[name] = picture.png
                for who, called, k in (("a", task.a, task.class_a), ("b", task.b, task.class_b)):
                    row[f"p_{who}{suffix}"] = picture.probability(self.classifiers[called], k)
        return row


def run(spec: DisagreementsJobSpec) -> Run:
    """Make images on which the classifiers that a spec names disagree."""
    models = Models(spec.sampler, spec.classifier, spec.against)
    named = models.classifiers
    described = check_names(
        classifiers=named, sampler=spec.sampler, classes=spec.disagreements.classes
    )
    scouting([], {}, dict(zip(named, described, strict=True)), spec.disagreements)
    if spec.source:
        explained = Lineage(Run.open(spec.source)).setting("classifier")
        if explained != spec.classifier:
            raise UsageError(
                f"the findings in {spec.source} are of {explained}, not of {spec.classifier}: "
                f"give --classifier {explained}, or another source"
            )
    with JOB.working(spec) as run:
        lineage = Lineage(run)
        findings = lineage.table("findings").read().to_pylist() if lineage.has("findings") else []
        arrows, chain = directions(lineage, findings), spec.disagreements.guidance.chain
        with session() as ray:
            models = models.on(ray, spec.placement)
            prompts = starts(run, lineage, spec.starts, chain, models, findings, arrows)
            disagreements(run, lineage, spec.disagreements, models, findings, prompts)
    return run


JOB = Job(
    name="disagreements",
    help="Images on which classifiers disagree most.",
    spec=DisagreementsJobSpec,
    run=run,
    tables=(STARTS, SCOUTED, TABLE),
    part="whylens.jobs.report.parts.disagreements:DISAGREEMENTS",
)
