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
from pydantic import BaseModel, Field

from whylens.cluster.session import session
from whylens.errors import UsageError
from whylens.guidance.settings import DisagreementForm, GuidanceSettings
from whylens.jobs.checking import check_names
from whylens.jobs.classes import same_class
from whylens.jobs.columns import columns
from whylens.jobs.findings.stored import directions
from whylens.jobs.guided.models import Models
from whylens.jobs.guided.prompts import PLAIN_TEMPLATE, PromptTemplate, prompt_for
from whylens.jobs.guided.spec import StartingSpec
from whylens.jobs.guided.starts import TABLE as STARTS
from whylens.jobs.guided.starts import starts
from whylens.jobs.guided.worker import SHARED, GuidedWorker, Made
from whylens.jobs.lineage import Lineage
from whylens.jobs.registry import Job
from whylens.jobs.stage import Batch, BatchSize, in_batches, work_through
from whylens.runs import Run
from whylens.settings import Settings

if TYPE_CHECKING:
    from whylens.classifiers import Classifier

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


class DisagreementSpec(Settings):
    """On which classes classifiers are pulled apart, and how."""

    classes: list[str] = Field(
        [],
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
    form: DisagreementForm = Field(
        "probability",
        description="What is lowered, with p of the one that says the class, q of the other: "
        "probability: -p + q; log: -log p - log(1 - q); log_ratio: -log p + log q; margin: margins "
        "of logits.",
    )
    batch: BatchSize = 6
    prompt_template: PromptTemplate = PLAIN_TEMPLATE
    seed: int = Field(0, ge=0, description="Seed of a class's first image; the next adds one.")
    guidance: GuidanceSettings = Field(
        GuidanceSettings(),
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
        DisagreementSpec(), description="On which classes, and how."
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
) -> list[Batch[DisagreementTask]]:
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
            Batch(f"{place:03d}-{name}", some) for name, some in in_batches(tasks, spec.batch, mark)
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
    models: Models,
    findings: Sequence[Mapping[str, Any]],
    prompts: Mapping[tuple[int, int], str],
) -> None:
    """The stages scouted and disagreements: what is missing of both tables."""
    from whylens.classifiers import load_classifier

    classifiers = {name: load_classifier(name) for name in models.classifiers}
    scouts = scouting(findings, prompts, classifiers, spec)
    arguments = (run, lineage, models, spec)
    work_through(run, SCOUTED, scouts, Scout, arguments, models.placement)
    units = plan(scouted(run, [unit.name for unit in scouts]), classifiers, spec)
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

        from whylens.guidance.objectives import Disagreement

        tasks, device = unit.tasks, self.sampler.device
        objective = Disagreement(
            self.classifiers[tasks[0].a],
            self.classifiers[tasks[0].b],
            torch.tensor([task.class_a for task in tasks], device=device),
            torch.tensor([task.class_b for task in tasks], device=device),
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
        row: dict[str, Any] = {
            "class_index": task.class_a,
            "class_name": task.class_name,
            "classifier_a": task.a,
            "classifier_b": task.b,
            "place": task.place,
            "prompt": task.prompt,
            "seed": task.seed,
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
    models = Models(spec.sampler, spec.classifier, spec.against, spec.placement)
    named = models.classifiers
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
    with JOB.working(spec) as run:
        lineage = Lineage(run)
        findings = lineage.table("findings").read().to_pylist() if lineage.has("findings") else []
        arrows, chain = directions(lineage, findings), spec.disagreements.guidance.chain
        with session() as ray:
            models = models.on(ray)
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
