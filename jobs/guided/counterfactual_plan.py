"""Which images are changed, and to what: the counterfactuals job's spec and units."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field

from whylens.errors import UsageError
from whylens.guidance.settings import GuidanceSettings
from whylens.jobs.guided.methods import BaselineSettings, MethodName
from whylens.jobs.guided.prompts import PLAIN_TEMPLATE, PromptTemplate, names
from whylens.jobs.guided.targets import RUNNER_UP, Targets
from whylens.jobs.spec import StageSettings, onto
from whylens.jobs.stage import Batch, BatchSize, in_batches
from whylens.jobs.words import plain_name

if TYPE_CHECKING:
    from whylens.classifiers import Classes

# Of `guidance`, where it differs from what images from noise need.
OWN_DEFAULTS: dict[str, Any] = {"optimiser": {"stop_below": 0.3}}


class CounterfactualSpec(StageSettings):
    """Which images are changed, and how."""

    images: int = Field(12, ge=1, description="Change this many images, spread over the classes.")
    each: int = Field(
        1, ge=1, description="Counterfactuals of each image, every one of a seed of its own."
    )
    classes: list[str] = Field([], description="Take images of these classes only; empty: of all.")
    # YAML reads true and 3 as no words.
    target: Annotated[
        str,
        BeforeValidator(lambda value: str(value).lower() if type(value) in (bool, int) else value),
    ] = Field(
        RUNNER_UP,
        description="Class to change them to: a name, a number, runner-up, true (misclassified "
        "images, to their label), near (the class most alike), cluster (every other class of its "
        "branch of the tree), random, or listed (by `targets`).",
    )
    tree: str | None = Field(
        None,
        description="JSON file with a tree of labels, by which near and cluster are meant; near "
        "goes without one by the rows of the classifier's head.",
    )
    targets: dict[str, str] = Field(
        {}, description="target = listed: the class that each image is changed to, by image id."
    )
    prompts: dict[str, str] = Field(
        {},
        description="What images show, by id, each with the word of its class; only these images "
        "are changed then.",
    )
    batch: BatchSize = 6
    prompt_template: PromptTemplate = PLAIN_TEMPLATE
    seed: int = Field(0, ge=0, description="Seed of the choice of images.")
    guidance: Annotated[GuidanceSettings, onto(OWN_DEFAULTS)] = Field(
        GuidanceSettings.model_validate(OWN_DEFAULTS),
        description="How the images are optimised.",
    )
    masks: str | None = Field(
        None,
        description="Folder of masks for guidance.editing.mask = given, white where an image may "
        "change, under the images' own names with .png; null: the collection's own.",
    )
    segmenter: str | None = Field(
        None,
        description="A SAM or SAM-HQ model, by Hub name or folder, which refines the masks of "
        "guidance.editing.mask = attention.",
    )
    method: MethodName = Field(
        "uvce", description="uvce, or an earlier method to compare with: svce, dvce, ldce."
    )
    baseline: BaselineSettings = Field(
        BaselineSettings(),
        description="Settings of the earlier methods.",
    )

    @property
    def asks_words(self) -> bool:
        """Whether a sampler has to tell where it looks for a word."""
        return self.method == "uvce" and self.guidance.editing.asks_words


@dataclass(frozen=True)
class Change:
    """One image to change, its classes as the classifier's class indices.

    source is what the classifier says, shown is what the image shows (its label), target what the
    classifier is to say; `caption` is empty where nobody knows. Where it does not name what the
    image shows (`named`), a template stands in for it.
    """

    image_id: str
    shown: int
    source: int
    target: int
    seed: int
    caption: str
    named: bool


def plan(
    images: Iterable[Mapping[str, Any]], classifier: Classes, spec: CounterfactualSpec
) -> list[Batch[Change]]:
    """The units: images that the target is for, the classes in turn, in an order of the seed.

    `images` are rows of the run's images table (id, label, top5_classes, caption), which are gone
    through more than once.

    Raises
    ------
    UsageError
        Where a class or an image is unknown, a prompt does not name its image's class, or no image
        is left.
    """
    wanted = {classifier.class_index(name) for name in spec.classes}
    aim = Targets(spec.target, spec.tree, classifier, listed=spec.targets, seed=spec.seed)
    if spec.targets:
        check_listed(images, spec)
    if spec.prompts:
        check_prompts(images, classifier, spec)
    by_class: dict[int, list[tuple[str, int, int, int]]] = {}
    for row in images:
        label = row["label"]
        if (wanted and label not in wanted) or (spec.prompts and row["id"] not in spec.prompts):
            continue
        for pair in aim.of(row["id"], label, list(row["top5_classes"] or ())):
            by_class.setdefault(label, []).append((row["id"], label, *pair))
    if not by_class:
        which = "misclassified" if spec.target == "true" else "classified rightly"
        raise UsageError(
            f"No image to change: of the wanted classes none is labelled and {which}. "
            "Name other classes, or a collection whose folders are named by class."
        )
    rng = np.random.default_rng(spec.seed)
    orders = {
        label: [changes[i] for i in rng.permutation(len(changes))]
        for label, changes in sorted(by_class.items())
    }
    longest = max(map(len, orders.values()))
    turns = [
        order[turn] for turn in range(longest) for order in orders.values() if turn < len(order)
    ]
    chosen = {image_id for image_id, *_ in turns[: spec.images]}
    told = {row["id"]: str(row.get("caption") or "") for row in images if row["id"] in chosen}
    captions = told | spec.prompts
    changes = [
        Change(
            image_id,
            shown,
            source,
            target,
            spec.seed + place,
            captions[image_id],
            names(captions[image_id], classifier.class_names[shown]),
        )
        for place, (image_id, shown, source, target) in enumerate(
            turn for turn in turns[: spec.images] for _ in range(spec.each)
        )
    ]
    return in_batches(changes, spec.batch, spec)


def check_listed(images: Iterable[Mapping[str, Any]], spec: CounterfactualSpec) -> None:
    """Refuse a listed target whose image isn't there."""
    known = {row["id"] for row in images if row["id"] in spec.targets}
    for image_id in spec.targets:
        if image_id not in known:
            raise UsageError(f"targets: there is no image {image_id!r} in the main collection")


def check_prompts(
    images: Iterable[Mapping[str, Any]], classifier: Classes, spec: CounterfactualSpec
) -> None:
    """Refuse a user's prompt whose image isn't there, or that doesn't name the image's class.

    The word of the class is what the edit swaps, and where the object is looked for.
    """
    labels = {row["id"]: row["label"] for row in images if row["id"] in spec.prompts}
    for image_id, prompt in spec.prompts.items():
        if image_id not in labels:
            raise UsageError(f"prompts: there is no image {image_id!r} in the main collection")
        label = labels[image_id]
        name = classifier.class_names[label] if label >= 0 else None
        if name is not None and not names(prompt, name):
            raise UsageError(
                f"the prompt {prompt!r} of the image {image_id!r} lacks the word of its class, "
                f"{plain_name(name)!r}, which would become the target's: put it in"
            )


def unnamed(changes: Sequence[Change], spec: CounterfactualSpec) -> str | None:
    """What to say of captions that do not name what their image shows; None where all do."""
    lacking = [change for change in changes if change.caption and not change.named]
    if not lacking:
        return None
    first = lacking[0]
    return (
        f"counterfactuals: the captions of {len(lacking)} of {len(changes)} images lack the word "
        f"of their class (of {first.image_id}: {first.caption!r}); {spec.prompt_template!r} stands "
        "in for them, and counterfactuals.prompts takes better ones"
    )
