"""What the workers of all guided jobs do alike: they hold the models, make images, measure them.

Every number in a row belongs to the picture that is stored beside it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pyarrow as pa

from whylens.jobs.classes import same_class
from whylens.jobs.columns import columns
from whylens.jobs.guided.models import Models
from whylens.jobs.guided.trajectory import Trajectory
from whylens.jobs.images import closest
from whylens.jobs.images.pictures import difference, measured, png, stored
from whylens.jobs.stage import memory_file
from whylens.runs.lineage import Lineage

if TYPE_CHECKING:
    from torch import Tensor

    from whylens.classifiers import Classifier
    from whylens.guidance.memory import Plan
    from whylens.guidance.objectives import Objective
    from whylens.guidance.problems import Problems
    from whylens.guidance.settings import ChainSettings, GuidanceSettings
    from whylens.guidance.solutions import Solution, Solutions
    from whylens.guidance.state import State
    from whylens.runs import Run

logger = logging.getLogger(__name__)

OPINION = pa.struct(
    [
        *columns(pa.string(), "classifier", "class_name"),
        *columns(pa.float32(), "before", "after"),
    ]
)
# Columns that every guided job's table has, beside its own.
SHARED = [
    # What was optimised, in words, and its value at each step.
    ("objective", pa.string()),
    ("losses", pa.list_(pa.float32())),
    ("failed", pa.string()),
    ("difference", pa.binary()),
    ("trajectory", pa.list_(pa.binary())),
    ("trajectory_steps", pa.list_(pa.int32())),
    # What every named classifier says before and after.
    ("probabilities", pa.list_(OPINION)),
    closest.FIELD,
]
SpecT = TypeVar("SpecT")


class Picture:
    """An image [3, H, W] in [0, 1] as it is stored, and what classifiers see in it."""

    def __init__(self, image: Tensor) -> None:
        self.image, self.stored = image, stored(image)
        self._seen: dict[int, tuple[Tensor, Tensor]] = {}

    @cached_property
    def png(self) -> bytes:
        return png(self.image)

    def seen_by(self, classifier: Classifier) -> tuple[Tensor, Tensor]:
        """Features [D] and class probabilities [K]."""
        key = id(classifier)
        if key not in self._seen:
            self._seen[key] = measured(classifier, self.stored)
        return self._seen[key]

    def features(self, classifier: Classifier) -> Any:
        """phi [D] as float64."""
        return self.seen_by(classifier)[0].double().cpu().numpy()

    def probability(self, classifier: Classifier, k: int) -> float:
        """p_k."""
        return float(self.seen_by(classifier)[1][k])


@dataclass(frozen=True)
class Made:
    """What became of a task: its images before and after, None where there is none."""

    solution: Solution
    before: Picture | None
    after: Picture | None
    trajectory: Sequence[tuple[int, bytes]] = ()


class GuidedWorker(Generic[SpecT]):
    """A worker: holds sampler, classifiers, and the settings of its stage."""

    def __init__(self, run: Run, lineage: Lineage, models: Models, spec: SpecT) -> None:
        """Load sampler and classifiers by name onto the device."""
        from whylens.guidance.memory import Memory

        self.run, self.lineage, self.spec = run, lineage, spec
        self.sampler = models.load_sampler()
        self.memory = Memory(self.sampler, part=models.placement.part_of_gpu)
        self._told: dict[str, Plan] = {}
        self.classifiers = models.load_classifiers()
        self.classifier = self.classifiers[models.classifier]

    @cached_property
    def closest(self) -> closest.Closest | None:
        """The run's images; None where their features are of none of the classifiers."""
        embedded_by = self.classifiers.get(str(self.lineage.setting("classifier")))
        if embedded_by is None or not self.lineage.has("images"):
            return None
        return closest.Closest(self.lineage, embedded_by)

    def plain(
        self, prompts: Sequence[str], seeds: Sequence[int], chain: ChainSettings
    ) -> list[Picture]:
        """Plain images of prompts, nothing optimised."""
        from whylens.diffusion import sample

        images = sample(
            self.sampler, list(prompts), list(seeds), steps=chain.steps,
            guidance_scale=chain.guidance_scale,
        )  # fmt: skip
        return [Picture(image) for image in images]

    def from_prompts(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        objective: Objective,
        settings: GuidanceSettings,
    ) -> list[Made]:
        """The best images of prompts, from noise of the seeds."""
        from whylens.guidance.problems import Problems

        problems = Problems.from_prompts(self.sampler, prompts, seeds)
        return self.optimised(problems, objective, settings)

    def optimised(
        self,
        problems: Problems,
        objective: Objective,
        settings: GuidanceSettings,
        before: Sequence[Picture] | None = None,
    ) -> list[Made]:
        """The best images of problems; `before` are the real ones, else those before any step."""
        from whylens.guidance import optimiser
        from whylens.guidance.solutions import Solutions

        logger.info("%d images: %s", len(problems), objective.description)
        states = optimiser.optimise(self.sampler, problems, objective, settings, self.memory)
        return self.followed(Solutions(problems), states, settings.optimiser.steps, before)

    def followed(
        self,
        solutions: Solutions,
        states: Iterable[State],
        steps: int,
        before: Sequence[Picture] | None = None,
    ) -> list[Made]:
        """What an optimisation of so many steps comes to, and a few images of its trajectory."""
        trajectory = Trajectory(steps)
        for state in states:
            solutions.add(state)
            trajectory.look(state, solutions.each)
        made = []
        for row, solution in enumerate(solutions.each):
            first = solution.start_image
            start = Picture(first) if before is None and first is not None else None
            after = None if solution.image is None else Picture(solution.image)
            images = trajectory.images(row, solution)
            made.append(Made(solution, start if before is None else before[row], after, images))
        return made

    def columns(
        self, made: Made, objective: str | None, class_names: Sequence[str]
    ) -> dict[str, Any]:
        """The shared columns of a task's row.

        `class_names` are the classes of which every classifier is asked.
        """
        before, after, solution = made.before, made.after, made.solution
        row: dict[str, Any] = {
            "objective": objective,
            "losses": [float(loss) for loss in solution.loss_trajectory],
            "failed": solution.failed,
            "trajectory": [image for _, image in made.trajectory],
            "trajectory_steps": [step for step, _ in made.trajectory],
            "probabilities": opinions(self.classifiers, class_names, before, after),
        }
        if before is not None and after is not None:
            row["difference"] = png(difference(before.image, after.image))
        if after is not None and self.closest is not None:
            features, _ = after.seen_by(self.closest.classifier)
            row["closest"] = self.closest(features.float().cpu().numpy())
        return row

    def write(
        self, table: str, unit: str, schema: pa.Schema, rows: Sequence[Mapping[str, Any]]
    ) -> int:
        """Write a unit's part; how many rows.

        Beside it, for run.json, how much was held at once of the stage's largest unit
        (`memory_file`).
        """
        plan, told = self.memory.latest, self._told.get(table)
        if plan and (told is None or (plan.of >= told.of and plan.choice != told.choice)):
            self._told[table] = plan
            self.run.storage.write(memory_file(table), json.dumps(plan.record).encode())
        self.run.table(table).write(unit, pa.Table.from_pylist(list(rows), schema=schema))
        return len(rows)


def opinions(
    classifiers: Mapping[str, Classifier],
    class_names: Sequence[str],
    before: Picture | None,
    after: Picture | None,
) -> list[dict[str, Any]]:
    """Probabilities of the named classes that each classifier has, as rows of `OPINION`."""
    rows = []
    for name, classifier in classifiers.items():
        for class_name in dict.fromkeys(class_names):
            if (k := same_class(class_name, classifier)) is not None:
                rows.append(
                    {
                        "classifier": name,
                        "class_name": class_name,
                        "before": None if before is None else before.probability(classifier, k),
                        "after": None if after is None else after.probability(classifier, k),
                    }
                )
    return rows
