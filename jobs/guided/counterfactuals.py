"""The counterfactuals job: real images, changed as little as possible until the decision flips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BeforeValidator, Field

from whylens.cluster.session import session
from whylens.errors import UsageError
from whylens.guidance.settings import GuidanceSettings
from whylens.jobs.checking import check_names
from whylens.jobs.classes import same_class
from whylens.jobs.columns import columns
from whylens.jobs.guided.inversions import TABLE as INVERSIONS
from whylens.jobs.guided.inversions import Inversions
from whylens.jobs.guided.masks import check_folder, given_masks
from whylens.jobs.guided.methods import BaselineSettings, MethodName, baseline_steps, load_baseline
from whylens.jobs.guided.models import Models
from whylens.jobs.guided.prompts import PLAIN_TEMPLATE, PromptTemplate, names, prompt_pair
from whylens.jobs.guided.real_images import RealImages
from whylens.jobs.guided.spec import Against, GuidedSpec
from whylens.jobs.guided.targets import RUNNER_UP, Targets
from whylens.jobs.guided.worker import SHARED, GuidedWorker, Made, Picture
from whylens.jobs.images.pictures import mask_png
from whylens.jobs.lineage import Lineage
from whylens.jobs.registry import Job
from whylens.jobs.spec import onto
from whylens.jobs.stage import Batch, BatchSize, in_batches, work_through
from whylens.jobs.words import plain_name
from whylens.runs import Run
from whylens.settings import Settings

if TYPE_CHECKING:
    import torch

    from whylens.classifiers import Classifier
    from whylens.guidance.segment import Segmenter

TABLE = "counterfactuals"
PROBABILITIES = tuple(
    f"{who}{side}_{when}"
    for who in ("p_", "against_")
    for side in ("source", "target")
    for when in ("before", "after")
)
SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("source_class", pa.int32()),
        ("source_name", pa.string()),
        ("target_class", pa.int32()),
        ("target_name", pa.string()),
        *columns(pa.binary(), "before", "after"),
        *columns(pa.float32(), *PROBABILITIES),
        *columns(pa.float32(), "l1", "l2"),
        ("flipped", pa.bool_()),
        *columns(pa.string(), "prompt_before", "prompt_after"),
        # Where the image could change, as PNG; steps that kept the image's cross-attention, and
        # the steps after which latents outside of the mask were its own, first and end.
        ("mask", pa.binary()),
        *columns(pa.int32(), "attention_steps", "blend_start", "blend_end"),
        # Between the image and what the chain led back to from its inversion, in dB.
        ("inversion_psnr", pa.float32()),
        *SHARED,
    ]
)


# Of `guidance`, where it differs from what images from noise need.
OWN_DEFAULTS: dict[str, Any] = {"optimiser": {"stop_below": 0.3}}


class CounterfactualSpec(Settings):
    """Which images are changed, and how."""

    images: int = Field(12, ge=1, description="Change this many images, spread over the classes.")
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


class CounterfactualsJobSpec(GuidedSpec):
    """Counterfactuals of images that were embedded."""

    source: str = Field(description="Run folder of an embed or investigate job.")
    against: Against = Field([])
    counterfactuals: CounterfactualSpec = Field(
        CounterfactualSpec(),
        description="Which images are changed, and how.",
    )


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
    images: Sequence[Mapping[str, Any]], classifier: Classifier, spec: CounterfactualSpec
) -> list[Batch[Change]]:
    """The units: images that the target is for, the classes in turn, in an order of the seed.

    `images` are rows of the run's images table (id, label, top5_classes).

    Raises
    ------
    UsageError
        Where a class or an image is unknown, a prompt does not name its image's class, or no image
        is left.
    """
    wanted = {classifier.class_index(name) for name in spec.classes}
    aim = Targets(spec.target, spec.tree, classifier, listed=spec.targets, seed=spec.seed)
    check_listed(images, spec)
    check_prompts(images, classifier, spec)
    by_class: dict[int, list[tuple[str, int, int, int]]] = {}
    captions = {row["id"]: str(row.get("caption") or "") for row in images} | spec.prompts
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
        for place, (image_id, shown, source, target) in enumerate(turns[: spec.images])
    ]
    return in_batches(changes, spec.batch, spec)


def check_listed(images: Sequence[Mapping[str, Any]], spec: CounterfactualSpec) -> None:
    """Refuse a listed target whose image isn't there."""
    known = {row["id"] for row in images}
    for image_id in spec.targets:
        if image_id not in known:
            raise UsageError(f"targets: there is no image {image_id!r} in the main collection")


def check_prompts(
    images: Sequence[Mapping[str, Any]], classifier: Classifier, spec: CounterfactualSpec
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


def planned(lineage: Lineage, classifier: str, spec: CounterfactualSpec) -> list[Batch[Change]]:
    """The units for the main collection of the nearest table of images; raises as `plan`."""
    from whylens.classifiers import load_classifier

    table = lineage.table("images").read(["id", "label", "top5_classes", "collection", "caption"])
    main = table.filter(pc.equal(table["collection"], "main"))
    loaded = load_classifier(classifier)
    check_folder(spec.masks, spec.guidance.editing.mask)
    # What these refuse, before any work.
    if spec.method != "uvce":
        load_baseline(spec.method, spec.baseline, loaded)
    load_segmenter(spec)
    return plan(main.to_pylist(), loaded, spec)


def load_segmenter(spec: CounterfactualSpec, device: str = "cpu") -> Segmenter | None:
    """The spec's segmenter, None where it names none.

    Raises
    ------
    UsageError
        If there is none of that name, or no mask for it to refine.
    """
    if spec.segmenter is None:
        return None
    if spec.guidance.editing.mask != "attention" or spec.method != "uvce":
        raise UsageError(
            f"the segmenter {spec.segmenter!r} has no mask to refine: it takes "
            "guidance.editing.mask = attention and method = uvce, or leave it out"
        )
    from whylens.guidance.segment import Segmenter

    return Segmenter(spec.segmenter, device)


def counterfactuals(run: Run, lineage: Lineage, spec: CounterfactualSpec, models: Models) -> None:
    """The stage: what is missing of the table counterfactuals, from the table images."""
    units = planned(lineage, models.classifier, spec)
    if told := unnamed([change for unit in units for change in unit.tasks], spec):
        run.warn(told)
    work_through(run, TABLE, units, Changer, (run, lineage, models, spec), models.placement)


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


class Changer(GuidedWorker[CounterfactualSpec]):
    """A worker: changes one unit's images, writes its part."""

    def __init__(
        self, run: Run, lineage: Lineage, models: Models, spec: CounterfactualSpec
    ) -> None:
        super().__init__(run, lineage, models, spec)
        self.real = RealImages(lineage, self.sampler)
        device = models.placement.device
        self.method = (
            None
            if spec.method == "uvce"
            else load_baseline(spec.method, spec.baseline, self.classifier, device)
        )
        # The first of the others has columns of its own.
        self.against = next((self.classifiers[name] for name in models.classifiers[1:]), None)
        self.segmenter = load_segmenter(spec, device)
        self.inversions = Inversions(run, lineage, self.sampler, spec.guidance, self.memory)

    def __call__(self, unit: Batch[Change]) -> int:
        """Change the unit's images; how many."""
        names = self.classifier.class_names
        loaded = self.real.load([change.image_id for change in unit.tasks])
        masks = None
        if self.spec.guidance.editing.mask == "given" and self.method is None:
            masks, lacking = given_masks(
                self.real.collection, loaded.records, loaded.pixels, self.sampler.image_size,
                self.spec.masks,
            )  # fmt: skip
            loaded.failed = [
                reason or why for reason, why in zip(loaded.failed, lacking, strict=True)
            ]
        prompts = [
            prompt_pair(
                change.caption, self.spec.prompt_template, names[change.shown], names[change.target]
            )
            for change in unit.tasks
        ]
        changed = _Changed([], None, [])
        if fit := loaded.fit:
            changed = self.changed(
                loaded.images[fit],
                [unit.tasks[place] for place in fit],
                [prompts[place] for place in fit],
                None if masks is None else masks[fit],
            )
        psnr = dict(zip(fit, changed.psnr, strict=False))
        rows = [
            {
                **self.row(change, made),
                "prompt_before": before,
                "prompt_after": after,
                "inversion_psnr": psnr.get(place),
                **self.columns(
                    made, changed.objective, [names[change.source], names[change.target]]
                ),
            }
            for place, (change, made, (before, after)) in enumerate(
                zip(unit.tasks, loaded.everyone(changed.made), prompts, strict=True)
            )
        ]
        return self.write(TABLE, unit.name, SCHEMA, rows)

    def changed(
        self,
        images: torch.Tensor,
        changes: Sequence[Change],
        prompts: Sequence[tuple[str, str]],
        masks: torch.Tensor | None,
    ) -> _Changed:
        """What becomes of images [B, 3, S, S] in [0, 1], by the spec's method."""
        import torch

        from whylens.guidance import counterfactuals as guided
        from whylens.guidance.solutions import Latest

        before, after = (list(side) for side in zip(*prompts, strict=True))
        targets = torch.tensor([change.target for change in changes], device=images.device)
        arguments = (self.sampler, images, before, after, targets, self.classifier)
        seeds = [change.seed for change in changes]
        pictures = [Picture(image) for image in images]
        if self.method is not None:
            states = self.method(*arguments, seeds=seeds)
            steps = baseline_steps(self.spec.method, self.spec.baseline)
            return _Changed(self.followed(Latest(len(images)), states, steps, pictures), None, [])
        settings = self.spec.guidance
        inversion = self.inversions.of([change.image_id for change in changes], images, before)
        problems, objective = guided.counterfactual_problems(
            *arguments,
            settings,
            masks=None if masks is None else masks.to(images),
            seeds=seeds,
            inversion=inversion,
            segmenter=self.segmenter,
        )
        made = self.optimised(problems, objective, settings, pictures)
        return _Changed(made, objective.name, inversion.psnr.tolist())

    def row(self, change: Change, made: Made) -> dict[str, Any]:
        """The columns that are this job's own."""
        names, solution = self.classifier.class_names, made.solution
        assert made.before is not None
        row: dict[str, Any] = {
            "image_id": change.image_id,
            "source_class": change.source,
            "source_name": names[change.source],
            "target_class": change.target,
            "target_name": names[change.target],
            "before": made.before.png,
            "flipped": False,
            "mask": mask_png(solution.mask),
            "attention_steps": solution.attention_steps,
            "blend_start": solution.blend_start,
            "blend_end": solution.blend_end,
            **self.probabilities(change, made.before, "before"),
        }
        if made.after is None:
            return row
        gap = made.after.stored - made.before.stored
        was, now = (
            int(picture.seen_by(self.classifier)[1].argmax())
            for picture in (made.before, made.after)
        )
        return row | {
            "after": made.after.png,
            "l1": float(gap.abs().mean()),
            "l2": float(gap.square().sum().sqrt()),
            # A photograph may look like the target already at the sampler's size: that's no flip.
            "flipped": was != change.target == now,
            **self.probabilities(change, made.after, "after"),
        }

    def probabilities(self, change: Change, picture: Picture, when: str) -> dict[str, float]:
        """Both classifiers' probabilities of source and target, as columns."""
        columns = {}
        names = self.classifier.class_names
        for who, classifier in (("p", self.classifier), ("against", self.against)):
            if classifier is None:
                continue
            for side, index in (("source", change.source), ("target", change.target)):
                found = same_class(names[index], classifier)
                if found is not None:
                    columns[f"{who}_{side}_{when}"] = picture.probability(classifier, found)
        return columns


@dataclass(frozen=True)
class _Changed:
    """What became of a batch: by which objective, and how well inversions led back (in dB)."""

    made: Sequence[Made]
    objective: str | None
    psnr: Sequence[float]


def run(spec: CounterfactualsJobSpec) -> Run:
    """Change images of a run until the classifier says another class."""
    check_names(classifiers=spec.against, sampler=spec.sampler)
    source = Lineage(Run.open(spec.source))
    classifier = str(source.setting("classifier"))
    planned(source, classifier, spec.counterfactuals)
    with JOB.working(spec) as run:
        models = Models(spec.sampler, classifier, spec.against, spec.placement)
        with session() as ray:
            counterfactuals(run, Lineage(run), spec.counterfactuals, models.on(ray))
    return run


JOB = Job(
    name="counterfactuals",
    help="The smallest change that makes a classifier say another class.",
    spec=CounterfactualsJobSpec,
    run=run,
    tables=(INVERSIONS, TABLE),
    part="whylens.jobs.report.parts.counterfactuals:COUNTERFACTUALS",
)
