"""On which classes classifiers are pulled apart: the disagreements job's spec and units.

Optimisation is spent where it is worth it: plain images of every class's prompts are shown to every
classifier first, and the pairs of classifiers and classes on which they differ most are taken.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from whylens.errors import UsageError
from whylens.guidance.settings import DisagreementForm, GuidanceSettings
from whylens.jobs.classes import same_class
from whylens.jobs.guided.prompts import PLAIN_TEMPLATE, PromptTemplate, prompt_for
from whylens.jobs.spec import StageSettings
from whylens.jobs.stage import Batch, BatchSize, in_batches, mark

if TYPE_CHECKING:
    from whylens.classifiers import Classes


class DisagreementSpec(StageSettings):
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
    classifiers: Mapping[str, Classes],
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
        units.append(ScoutUnit(f"{mark(spec)}-{mark(name, prompt)}", name, (prompt,)))
    return units


def plan(
    plain: Mapping[str, Sequence[Plain]],
    classifiers: Mapping[str, Classes],
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
    units: list[Batch[DisagreementTask]] = []
    for pair, (a, b) in enumerate(pairs):
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
        units += [
            Batch(f"{pair:03d}-{name}", some) for name, some in in_batches(tasks, spec.batch, spec)
        ]
    return units
