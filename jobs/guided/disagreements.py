"""The disagreements job: images that one classifier calls a class and another does not.

Optimisation is spent where it is worth it: plain images of every class's prompts are shown to every
classifier first, and the pairs of classifiers and classes on which they differ most are taken.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from whylens.cluster.placement import Placement
from whylens.cluster.session import session
from whylens.errors import UsageError
from whylens.guidance.settings import GuidanceSettings
from whylens.jobs.checking import check_names
from whylens.jobs.classes import same_class
from whylens.jobs.findings.stored import directions
from whylens.jobs.guided import opinions, trajectory
from whylens.jobs.guided.prompts import PLAIN_TEMPLATE, PromptTemplate, prompt_for
from whylens.jobs.guided.spec import StartingSpec
from whylens.jobs.guided.starts import TABLE as STARTS
from whylens.jobs.guided.starts import starts
from whylens.jobs.images import closest
from whylens.jobs.lineage import Lineage
from whylens.jobs.registry import Job
from whylens.jobs.stage import in_batches, work_through
from whylens.runs import Run

if TYPE_CHECKING:
    from whylens.classifiers import Classifier
    from whylens.guidance.optimiser import Solution

TABLE = "disagreements"
SCOUTED = "scouted"
SCOUTED_SCHEMA = pa.schema(
    [
        ("class_name", pa.string()),
        ("prompt", pa.string()),
        ("seed", pa.int64()),
        ("image", pa.binary()),
        ("classifier", pa.string()),
        ("p", pa.float32()),
    ]
)
SCHEMA = pa.schema(
    [
        ("class_index", pa.int32()),
        ("class_name", pa.string()),
        ("classifier_a", pa.string()),
        ("classifier_b", pa.string()),
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
        ("difference", pa.binary()),
        *trajectory.FIELDS,
        opinions.FIELD,
        closest.FIELD,
    ]
)


class DisagreementSpec(BaseModel):
    """On which classes classifiers are pulled apart, and how."""

    model_config = ConfigDict(extra="forbid")

    classes: list[str] = Field(
        default_factory=list,
        description="Classes, by name or number; empty: those with findings, or all.",
    )
    pairs: Literal["first", "every"] = Field(
        "first",
        description="first: the first classifier says the class, another does not; every: any "
        "says it, any other does not.",
    )
    scout: int = Field(
        4,
        ge=1,
        description="Plain images a prompt, by which the classes and starts that are worth "
        "looking at are found.",
    )
    most_classes: int = Field(
        4, ge=1, description="Take at most this many classes (with every: of each pair)."
    )
    images: int = Field(3, ge=1, description="Images a class.")
    batch: int = Field(6, ge=1, description="Images that are optimised together.")
    prompt_template: PromptTemplate = PLAIN_TEMPLATE
    seed: int = Field(0, ge=0, description="Seed of a class's first image; the next adds one.")
    guidance: GuidanceSettings = Field(
        default_factory=GuidanceSettings.model_construct,
        description="How the images are optimised.",
    )


class DisagreementsJobSpec(StartingSpec):
    """Images on which classifiers disagree."""

    source: str | None = Field(
        None, description="Run folder of an exemplars or investigate job, for its findings."
    )
    classifier: str = Field(description="The classifier that says the class.")
    against: list[str] = Field(min_length=1, description="Classifiers that do not, one or more.")
    disagreements: DisagreementSpec = Field(
        default_factory=lambda: DisagreementSpec(), description="On which classes, and how."
    )


@dataclass(frozen=True)
class DisagreementTask:
    """One image to make: the class as either classifier counts it."""

    a: str
    b: str
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


@dataclass(frozen=True)
class ScoutUnit:
    """A class and the prompts of which plain images are made."""

    name: str
    class_name: str
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class Plain:
    """A plain image of a class's prompt, and each classifier's probability of the class."""

    prompt: str
    seed: int
    p: Mapping[str, float]


def scouting(
    findings: Sequence[Mapping[str, Any]],
    prompts: Mapping[tuple[int, int], str],
    classifiers: Mapping[str, Classifier],
    spec: DisagreementSpec,
) -> list[ScoutUnit]:
    """One unit a class: those asked for, else those of the findings by rank, else all.

    A class is scouted by the prompt of the feature that was found for it, where one was (there the
    classifiers are most likely to part), else by its own. `prompts` are by class index of the first
    classifier and component.

    Raises
    ------
    UsageError
        Where there is one classifier only, a named class is unknown to the first, or no other knows
        any of them.
    """
    (called, first), *others = classifiers.items()
    if not others:
        raise UsageError(f"two different classifiers can disagree; {called} is one")
    ranked: dict[int, Mapping[str, Any]] = {}
    for row in sorted(findings, key=lambda row: row["rank"]):
        ranked.setdefault(int(row["class_index"]), row)
    wanted = [first.class_index(name) for name in spec.classes] or list(ranked)
    wanted = wanted or list(range(len(first.class_names)))
    names = [first.class_names[k] for k in dict.fromkeys(wanted)]
    shared = [
        name for name in names if any(same_class(name, other) is not None for _, other in others)
    ]
    if not shared:
        raise UsageError(
            "No second classifier knows any of the classes "
            f"{', '.join(names[:5])}: name one with the same classes."
        )
    starting = {
        first.class_names[k]: prompts[key]
        for k, row in ranked.items()
        if (key := (k, row["component"])) in prompts
    }
    units = []
    for name in shared:
        prompt = starting.get(name, prompt_for(spec.prompt_template, name))
        ((unit, _),) = in_batches([name], 1, _Scouted(name=name, prompt=prompt, spec=spec))
        units.append(ScoutUnit(unit, name, (prompt,)))
    return units


class _Scouted(BaseModel):
    """What tells a scouting unit from any other: so that a run goes on with the same settings."""

    name: str
    prompt: str
    spec: DisagreementSpec


def plan(
    plain: Mapping[str, Sequence[Plain]],
    classifiers: Mapping[str, Classifier],
    spec: DisagreementSpec,
) -> list[DisagreementUnit]:
    """The units: for each pair of classifiers the classes on which plain images part them most.

    A class counts by the mean difference of p over as many of its plain images as will be made, the
    best ones, from whose seeds those start (and from new seeds, where more are wanted than there
    are). `plain` are each class's images, by the first classifier's name of it.
    """
    names = list(classifiers)
    pairs = [(a, b) for a, b in itertools.permutations(names, 2)]
    if spec.pairs == "first":
        pairs = [(a, b) for a, b in pairs if a == names[0]]
    grouped: list[tuple[str, str, list[DisagreementTask]]] = []
    for a, b in pairs:
        scored = []
        for name, images in plain.items():
            class_a, class_b = (same_class(name, classifiers[one]) for one in (a, b))
            usable = [one for one in images if {a, b} <= set(one.p)]
            if class_a is None or class_b is None or not usable:
                continue
            best = sorted(usable, key=lambda one: one.p[b] - one.p[a])[: spec.images]
            gap = sum(one.p[a] - one.p[b] for one in best) / len(best)
            starts = [(one.prompt, one.seed) for one in best]
            fresh = itertools.count(max(one.seed for one in usable) + 1)
            starts += [(best[0].prompt, next(fresh)) for _ in range(spec.images - len(best))]
            scored.append((gap, name, class_a, class_b, starts))
        scored.sort(key=lambda one: -one[0])
        tasks = [
            DisagreementTask(a, b, class_a, class_b, name, place, *start)
            for _, name, class_a, class_b, starts in scored[: spec.most_classes]
            for place, start in enumerate(starts)
        ]
        grouped.append((a, b, tasks))
    units = []
    for place, (a, b, tasks) in enumerate(grouped):
        mark = _Pair(a=a, b=b, spec=spec)
        units += [
            DisagreementUnit(f"{place:03d}-{name}", some)
            for name, some in in_batches(tasks, spec.batch, mark)
        ]
    return units


class _Pair(BaseModel):
    """What tells a pair's units from any other's."""

    a: str
    b: str
    spec: DisagreementSpec


def disagreements(
    run: Run,
    lineage: Lineage,
    spec: DisagreementSpec,
    findings: Sequence[Mapping[str, Any]],
    prompts: Mapping[tuple[int, int], str],
    *,
    sampler: str,
    classifier: str,
    against: Sequence[str],
    placement: Placement,
) -> None:
    """The stages scouted and disagreements: what is missing of both tables."""
    from whylens.classifiers import load_classifier

    named = tuple(dict.fromkeys((classifier, *against)))
    classifiers = {name: load_classifier(name) for name in named}
    scouts = scouting(findings, prompts, classifiers, spec)
    arguments: tuple[Any, ...] = (run, spec, sampler, named, placement.device)
    work_through(run, SCOUTED, scouts, Scout, arguments, placement)
    plain = scouted(run, [unit.name for unit in scouts])
    arguments = (run, lineage, spec, sampler, named, placement.device)
    work_through(run, TABLE, plan(plain, classifiers, spec), Divider, arguments, placement)


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


class Scout:
    """A worker: makes plain images of a class's prompts, asks every classifier, writes its part."""

    def __init__(
        self,
        run: Run,
        spec: DisagreementSpec,
        sampler: str,
        classifiers: Sequence[str],
        device: str,
    ) -> None:
        """Load sampler and classifiers by name onto the device."""
        from whylens.classifiers import load_classifier
        from whylens.diffusion import load_sampler

        self.run, self.spec = run, spec
        self.sampler = load_sampler(sampler, device)
        self.classifiers = {name: load_classifier(name, device) for name in classifiers}

    def __call__(self, unit: ScoutUnit) -> int:
        """Make the unit's plain images; how many."""
        from whylens.diffusion import sample
        from whylens.jobs.images.pictures import measured, png

        seeds = [self.spec.seed + place for place in range(self.spec.scout)]
        starts = [(prompt, seed) for prompt in unit.prompts for seed in seeds]
        images = sample(
            self.sampler,
            [prompt for prompt, _ in starts],
            [seed for _, seed in starts],
            steps=self.spec.guidance.steps,
            guidance_scale=self.spec.guidance.guidance_scale,
        )
        rows = [
            {
                "class_name": unit.class_name,
                "prompt": prompt,
                "seed": seed,
                "image": png(image),
                "classifier": name,
                "p": float(measured(classifier, image)[1][k]),
            }
            for (prompt, seed), image in zip(starts, images, strict=True)
            for name, classifier in self.classifiers.items()
            if (k := same_class(unit.class_name, classifier)) is not None
        ]
        self.run.table(SCOUTED).write(unit.name, pa.Table.from_pylist(rows, schema=SCOUTED_SCHEMA))
        return len(starts)


class Divider:
    """A worker: holds sampler and classifiers, makes one unit's images, writes its part."""

    def __init__(
        self,
        run: Run,
        lineage: Lineage,
        spec: DisagreementSpec,
        sampler: str,
        classifiers: Sequence[str],
        device: str,
    ) -> None:
        """Load sampler and classifiers by name onto the device."""
        from whylens.classifiers import load_classifier
        from whylens.diffusion import load_sampler

        self.run = run
        self.spec = spec
        self.sampler = load_sampler(sampler, device)
        self.classifiers = {name: load_classifier(name, device) for name in classifiers}
        # Only the run's own images can be near, in the features that they were embedded with.
        self.embedded_by = str(lineage.setting("classifier"))
        self.closest = None
        if lineage.has("images") and self.embedded_by in self.classifiers:
            self.closest = closest.Closest(lineage, self.classifiers[self.embedded_by])

    def __call__(self, unit: DisagreementUnit) -> int:
        """Make the unit's images; how many."""
        import torch

        from whylens.guidance.objectives import Disagreement
        from whylens.guidance.optimiser import Problem, optimise

        tasks, device = unit.tasks, self.sampler.device
        objective = Disagreement(
            self.classifiers[tasks[0].a],
            self.classifiers[tasks[0].b],
            torch.tensor([task.class_a for task in tasks], device=device),
            torch.tensor([task.class_b for task in tasks], device=device),
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

    def row(self, task: DisagreementTask, solution: Solution) -> dict[str, Any]:
        """The table's row of one solution, its numbers measured on the stored pictures."""
        from whylens.jobs.images.pictures import difference, measured, png

        row: dict[str, Any] = {
            "class_index": task.class_a,
            "class_name": task.class_name,
            "classifier_a": task.a,
            "classifier_b": task.b,
            "place": task.place,
            "prompt": task.prompt,
            "seed": task.seed,
            "losses": [float(loss) for loss in solution.loss_trajectory],
            "failed": solution.failed,
            "probabilities": opinions.opinions(
                self.classifiers, [task.class_name], solution.start_image, solution.image
            ),
        }
        for image, name, suffix in (
            (solution.image, "image", ""),
            (solution.start_image, "start_image", "_start"),
        ):
            if image is not None:
                row[name] = png(image)
                for who, classifier, k in (
                    ("a", self.classifiers[task.a], task.class_a),
                    ("b", self.classifiers[task.b], task.class_b),
                ):
                    row[f"p_{who}{suffix}"] = float(measured(classifier, image)[1][k])
        if solution.image is not None and solution.start_image is not None:
            row["difference"] = png(difference(solution.start_image, solution.image))
            if self.closest is not None:
                features, _ = measured(self.classifiers[self.embedded_by], solution.image)
                row["closest"] = self.closest(features.float().cpu().numpy())
        return row


def run(spec: DisagreementsJobSpec) -> Run:
    """Make images on which the classifiers that a spec names disagree."""
    named = list(dict.fromkeys([spec.classifier, *spec.against]))
    loaded = check_names(
        classifiers=named, sampler=spec.sampler, classes=spec.disagreements.classes
    )
    scouting([], {}, dict(zip(named, loaded, strict=True)), spec.disagreements)
    if spec.source:
        explained = Lineage(Run.open(spec.source)).setting("classifier")
        if explained != spec.classifier:
            raise UsageError(
                f"the findings in {spec.source} are of {explained}, not of {spec.classifier}: "
                f"give --classifier {explained}, or another source"
            )
    run = JOB.start(spec)
    lineage = Lineage(run)
    findings = lineage.table("findings").read().to_pylist() if lineage.has("findings") else []
    with session():
        prompts = starts(
            run,
            lineage,
            spec.starts,
            findings,
            directions(lineage, findings),
            guidance=spec.disagreements.guidance,
            sampler=spec.sampler,
            classifier=spec.classifier,
            placement=spec.placement,
        )
        disagreements(
            run,
            lineage,
            spec.disagreements,
            findings,
            prompts,
            sampler=spec.sampler,
            classifier=spec.classifier,
            against=spec.against,
            placement=spec.placement,
        )
    run.finish()
    return run


JOB = Job(
    name="disagreements",
    help="Images on which classifiers disagree most.",
    spec=DisagreementsJobSpec,
    run=run,
    tables=(STARTS, SCOUTED, TABLE),
    part="whylens.jobs.report.parts.disagreements:DISAGREEMENTS",
)
