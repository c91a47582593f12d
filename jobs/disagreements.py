"""The disagreements job: images that one classifier calls a class and another does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from whylens.cluster.placement import Placement
from whylens.errors import UsageError
from whylens.guidance.settings import GuidanceSettings
from whylens.jobs.classes import same_class
from whylens.jobs.prompts import PLAIN_TEMPLATE, PromptTemplate, prompt_for
from whylens.jobs.working import in_batches, work_through

if TYPE_CHECKING:
    from whylens.classifiers import Classifier
    from whylens.guidance.optimiser import Solution
    from whylens.runs import Run

TABLE = "disagreements"
SCHEMA = pa.schema(
    [
        ("class_index", pa.int32()),
        ("class_name", pa.string()),
        ("place", pa.int32()),
        ("image", pa.binary()),
        ("start_image", pa.binary()),
        ("p_a", pa.float32()),
        ("p_b", pa.float32()),
        ("p_a_start", pa.float32()),
        ("p_b_start", pa.float32()),
        ("prompt", pa.string()),
        ("seed", pa.int64()),
        ("losses", pa.list_(pa.float32())),
        ("failed", pa.string()),
    ]
)


class DisagreementSpec(BaseModel):
    """On which classes the two classifiers are pulled apart, and how."""

    model_config = ConfigDict(extra="forbid")

    classes: list[str] = Field(
        default_factory=list, description="Classes, by name or number; empty: those with findings."
    )
    most_classes: int = Field(4, ge=1, description="Take at most this many classes.")
    images: int = Field(3, ge=1, description="Images a class.")
    batch: int = Field(6, ge=1, description="Images that are optimised together.")
    prompt_template: PromptTemplate = PLAIN_TEMPLATE
    seed: int = Field(0, ge=0, description="Seed of a class's first image; the next adds one.")
    guidance: GuidanceSettings = Field(
        default_factory=GuidanceSettings.model_construct,
        description="How the images are optimised.",
    )


@dataclass(frozen=True)
class DisagreementTask:
    """One image to make: the class as either classifier counts it."""

    class_a: int
    class_b: int
    class_name: str
    place: int
    prompt: str
    seed: int


@dataclass(frozen=True)
class DisagreementUnit:
    """A batch of images that are optimised together and written as one part."""

    name: str
    tasks: tuple[DisagreementTask, ...]


def plan(
    findings: Sequence[Mapping[str, Any]],
    prompts: Mapping[tuple[int, int], str],
    a: Classifier,
    b: Classifier,
    spec: DisagreementSpec,
) -> list[DisagreementUnit]:
    """The units: the classes asked for, else those of the findings by rank, if both know them.

    An image starts from the prompt of the feature that was found for its class, where one was:
    there the classifiers are most likely to part. `prompts` are by class index and component.

    UsageError where a named class is unknown to the first classifier, or where the second knows
    none of the classes.
    """
    first: dict[int, Mapping[str, Any]] = {}
    for row in sorted(findings, key=lambda row: row["rank"]):
        first.setdefault(int(row["class_index"]), row)
    wanted = [a.class_index(name) for name in spec.classes] or list(first)
    pairs = [(k, same_class(a.class_names[k], b)) for k in wanted]
    shared = [(k, other) for k, other in pairs if other is not None][: spec.most_classes]
    if wanted and not shared:
        raise UsageError(
            "The second classifier knows none of the classes "
            f"{', '.join(a.class_names[k] for k in wanted[:5])}: name one with the same classes."
        )
    starting = {
        k: prompts[key] for k, row in first.items() if (key := (k, row["component"])) in prompts
    }
    tasks = [
        DisagreementTask(
            class_a=k,
            class_b=other,
            class_name=a.class_names[k],
            place=place,
            prompt=starting.get(k, prompt_for(spec.prompt_template, a.class_names[k])),
            seed=spec.seed + place,
        )
        for k, other in shared
        for place in range(spec.images)
    ]
    return [DisagreementUnit(*named) for named in in_batches(tasks, spec.batch, spec)]


def disagreements(
    run: Run,
    spec: DisagreementSpec,
    findings: Sequence[Mapping[str, Any]],
    prompts: Mapping[tuple[int, int], str],
    *,
    sampler: str,
    classifier: str,
    against: str,
    placement: Placement,
) -> None:
    """The stage: what is missing of the table disagreements, for rows of the table findings."""
    from whylens.classifiers import load_classifier

    a, b = load_classifier(classifier), load_classifier(against)
    units = plan(findings, prompts, a, b, spec)
    arguments = (run, spec, sampler, classifier, against, placement.device)
    work_through(run, TABLE, units, Divider, arguments, placement)


class Divider:
    """A worker: holds sampler and both classifiers, makes one unit's images, writes its part."""

    def __init__(
        self,
        run: Run,
        spec: DisagreementSpec,
        sampler: str,
        classifier: str,
        against: str,
        device: str,
    ) -> None:
        """Load sampler and classifiers by name onto the device."""
        from whylens.classifiers import load_classifier
        from whylens.diffusion import load_sampler

        self.run = run
        self.spec = spec
        self.sampler = load_sampler(sampler, device)
        self.a = load_classifier(classifier, device)
        self.b = load_classifier(against, device)

    def __call__(self, unit: DisagreementUnit) -> int:
        """Make the unit's images; how many."""
        import torch

        from whylens.guidance.objectives import Disagreement
        from whylens.guidance.optimiser import Problem, optimise

        tasks, device = unit.tasks, self.sampler.device
        objective = Disagreement(
            self.a,
            self.b,
            torch.tensor([task.class_a for task in tasks], device=device),
            torch.tensor([task.class_b for task in tasks], device=device),
        )
        problems = [Problem(prompt=task.prompt, seed=task.seed) for task in tasks]
        solutions = optimise(self.sampler, problems, objective, self.spec.guidance)
        rows = [self.row(task, solution) for task, solution in zip(tasks, solutions, strict=True)]
        self.run.table(TABLE).write(unit.name, pa.Table.from_pylist(rows, schema=SCHEMA))
        return len(rows)

    def row(self, task: DisagreementTask, solution: Solution) -> dict[str, Any]:
        """The table's row of one solution, its numbers measured on the stored pictures."""
        from whylens.jobs.pictures import measured, png

        row: dict[str, Any] = {
            "class_index": task.class_a,
            "class_name": task.class_name,
            "place": task.place,
            "prompt": task.prompt,
            "seed": task.seed,
            "losses": [float(loss) for loss in solution.loss_trajectory],
            "failed": solution.failed,
        }
        for image, name, suffix in (
            (solution.image, "image", ""),
            (solution.start_image, "start_image", "_start"),
        ):
            if image is not None:
                row[name] = png(image)
                row[f"p_a{suffix}"] = float(measured(self.a, image)[1][task.class_a])
                row[f"p_b{suffix}"] = float(measured(self.b, image)[1][task.class_b])
        return row
