"""The counterfactuals job: real images, changed as little as possible until the decision flips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from whylens.cluster.placement import Placement
from whylens.cluster.session import session
from whylens.errors import UsageError
from whylens.guidance.settings import GuidanceSettings
from whylens.jobs.checking import check_names
from whylens.jobs.classes import same_class
from whylens.jobs.guided import opinions, trajectory
from whylens.jobs.guided.inversions import TABLE as INVERSIONS
from whylens.jobs.guided.inversions import Inversions
from whylens.jobs.guided.masks import check_folder, given_masks
from whylens.jobs.guided.methods import BaselineSettings, MethodName, baseline_steps, load_baseline
from whylens.jobs.guided.prompts import PLAIN_TEMPLATE, PromptTemplate, names, prompt_pair
from whylens.jobs.guided.spec import Against, GuidedSpec
from whylens.jobs.guided.targets import RUNNER_UP, Targets
from whylens.jobs.images import closest
from whylens.jobs.lineage import Lineage
from whylens.jobs.registry import Job
from whylens.jobs.spec import onto
from whylens.jobs.stage import in_batches, work_through
from whylens.jobs.words import plain_name
from whylens.runs import Run

if TYPE_CHECKING:
    import torch

    from whylens.classifiers import Classifier
    from whylens.guidance.optimiser import Solution
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
        ("before", pa.binary()),
        ("after", pa.binary()),
        ("difference", pa.binary()),
        *((name, pa.float32()) for name in PROBABILITIES),
        ("l1", pa.float32()),
        ("l2", pa.float32()),
        ("losses", pa.list_(pa.float32())),
        ("flipped", pa.bool_()),
        ("failed", pa.string()),
        ("prompt_before", pa.string()),
        ("prompt_after", pa.string()),
        # Where the image could change, as PNG; steps that kept the image's cross-attention, and the
        # step from which on latents outside of the mask were its own.
        ("mask", pa.binary()),
        ("attention_steps", pa.int32()),
        ("blend_start", pa.int32()),
        # Between the image and what the chain led back to from its inversion, in dB.
        ("inversion_psnr", pa.float32()),
        *trajectory.FIELDS,
        opinions.FIELD,
        closest.FIELD,
    ]
)


# Of `guidance`, where it differs from what images from noise need.
OWN_DEFAULTS: dict[str, Any] = {"stop_below": 0.3}


class CounterfactualSpec(BaseModel):
    """Which images are changed, and how."""

    model_config = ConfigDict(extra="forbid")

    images: int = Field(12, ge=1, description="Change this many images, spread over the classes.")
    classes: list[str] = Field(
        default_factory=list, description="Take images of these classes only; empty: of all."
    )
    # YAML reads true and 3 as no words.
    target: Annotated[
        str,
        BeforeValidator(lambda value: str(value).lower() if type(value) in (bool, int) else value),
    ] = Field(
        RUNNER_UP,
        description="Class to change them to: a name, a number, runner-up, true (misclassified "
        "images, to their label), or near (the class most alike).",
    )
    tree: str | None = Field(
        None,
        description="JSON file with a tree of labels, by which near is meant; none: by the rows "
        "of the classifier's head.",
    )
    prompts: dict[str, str] = Field(
        default_factory=dict,
        description="What images show, by id, each with the word of its class; only these images "
        "are changed then.",
    )
    batch: int = Field(6, ge=1, description="Images that are optimised together.")
    prompt_template: PromptTemplate = PLAIN_TEMPLATE
    seed: int = Field(0, ge=0, description="Seed of the choice of images.")
    guidance: Annotated[GuidanceSettings, onto(OWN_DEFAULTS)] = Field(
        default_factory=lambda: GuidanceSettings.model_construct(**OWN_DEFAULTS),
        description="How the images are optimised.",
    )
    masks: str | None = Field(
        None,
        description="Folder of masks for guidance.mask = given, white where an image may change, "
        "under the images' own names with .png; null: the collection's own.",
    )
    segmenter: str | None = Field(
        None,
        description="A SAM or SAM-HQ model, by Hub name or folder, which refines the masks of "
        "guidance.mask = attention.",
    )
    method: MethodName = Field(
        "uvce", description="uvce, or an earlier method to compare with: svce, dvce, ldce."
    )
    baseline: BaselineSettings = Field(
        default_factory=BaselineSettings.model_construct,
        description="Settings of the earlier methods.",
    )


class CounterfactualsJobSpec(GuidedSpec):
    """Counterfactuals of images that were embedded."""

    source: str = Field(description="Run folder of an embed or investigate job.")
    against: Against = Field(default_factory=list)
    counterfactuals: CounterfactualSpec = Field(
        default_factory=lambda: CounterfactualSpec(),
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


@dataclass(frozen=True)
class CounterfactualUnit:
    """A batch of images that are changed together and written as one part."""

    name: str
    changes: tuple[Change, ...]


def plan(
    images: Sequence[Mapping[str, Any]], classifier: Classifier, spec: CounterfactualSpec
) -> list[CounterfactualUnit]:
    """The units: images that the target is for, the classes in turn, in an order of the seed.

    `images` are rows of the run's images table (id, label, top5_classes).

    Raises
    ------
    UsageError
        Where a class or an image is unknown, a prompt does not name its image's class, or no image
        is left.
    """
    wanted = {classifier.class_index(name) for name in spec.classes}
    aim = Targets(spec.target, spec.tree, classifier)
    check_prompts(images, classifier, spec)
    by_class: dict[int, list[tuple[str, int, int, int]]] = {}
    captions = {row["id"]: str(row.get("caption") or "") for row in images} | spec.prompts
    for row in images:
        label = row["label"]
        if (wanted and label not in wanted) or (spec.prompts and row["id"] not in spec.prompts):
            continue
        if (pair := aim(label, list(row["top5_classes"] or ()))) is not None:
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
    return [CounterfactualUnit(*named) for named in in_batches(changes, spec.batch, spec)]


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


def planned(
    lineage: Lineage, classifier: str, spec: CounterfactualSpec
) -> list[CounterfactualUnit]:
    """The units for the main collection of the nearest table of images; raises as `plan`."""
    from whylens.classifiers import load_classifier

    table = lineage.table("images").read(["id", "label", "top5_classes", "collection", "caption"])
    main = table.filter(pc.equal(table["collection"], "main"))
    loaded = load_classifier(classifier)
    check_folder(spec.masks, spec.guidance.mask)
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
    if spec.guidance.mask != "attention" or spec.method != "uvce":
        raise UsageError(
            f"the segmenter {spec.segmenter!r} has no mask to refine: it takes guidance.mask = "
            "attention and method = uvce, or leave it out"
        )
    from whylens.guidance.segment import Segmenter

    return Segmenter(spec.segmenter, device)


def counterfactuals(
    run: Run,
    lineage: Lineage,
    spec: CounterfactualSpec,
    *,
    sampler: str,
    classifier: str,
    against: Sequence[str],
    placement: Placement,
) -> None:
    """The stage: what is missing of the table counterfactuals, from the table images."""
    units = planned(lineage, classifier, spec)
    if told := unnamed([change for unit in units for change in unit.changes], spec):
        run.warn(told)
    arguments = (run, lineage, spec, sampler, classifier, tuple(against), placement.device)
    work_through(run, TABLE, units, Changer, arguments, placement)


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


class Changer:
    """A worker: holds sampler and classifiers, changes one unit's images, writes its part."""

    def __init__(
        self,
        run: Run,
        lineage: Lineage,
        spec: CounterfactualSpec,
        sampler: str,
        classifier: str,
        against: Sequence[str],
        device: str,
    ) -> None:
        """Open the collection and load sampler and classifiers by name onto the device."""
        from whylens.classifiers import load_classifier
        from whylens.diffusion import load_sampler
        from whylens.images import open_collection

        self.run = run
        self.spec = spec
        self.collection = open_collection(str(lineage.setting("images")))
        self.records = {record.id: record for record in self.collection.records}
        self.sampler = load_sampler(sampler, device)
        self.classifier = load_classifier(classifier, device)
        self.baseline = (
            None
            if spec.method == "uvce"
            else load_baseline(spec.method, spec.baseline, self.classifier, device)
        )
        others = {name: load_classifier(name, device) for name in against}
        self.classifiers = {classifier: self.classifier, **others}
        # The first of them has columns of its own.
        self.against = next(iter(others.values()), None)
        self.closest = closest.Closest(lineage, self.classifier)
        self.segmenter = load_segmenter(spec, device)
        self.inversions = Inversions(run, lineage, self.sampler, spec.guidance)

    def __call__(self, unit: CounterfactualUnit) -> int:
        """Change the unit's images; how many."""
        import torch

        from whylens.guidance.counterfactuals import counterfactual
        from whylens.guidance.optimiser import Solution
        from whylens.images.tensors import to_tensor, too_small

        names = self.classifier.class_names
        records = [self.records[change.image_id] for change in unit.changes]
        size = self.sampler.image_size
        pictures = [self.collection.load(record) for record in records]
        images = torch.stack([to_tensor(p, size) for p in pictures]).to(self.sampler.device)
        failed = [too_small(picture, size) for picture in pictures]
        masks = None
        if self.spec.guidance.mask == "given" and self.baseline is None:
            masks, lacking = given_masks(self.collection, records, pictures, size, self.spec.masks)
            failed = [reason or why for reason, why in zip(failed, lacking, strict=True)]
        prompts = [
            prompt_pair(
                change.caption,
                self.spec.prompt_template,
                names[change.shown],
                names[change.target],
            )
            for change in unit.changes
        ]
        way = trajectory.Trajectory(
            self.spec.guidance.optimisation_steps
            if self.spec.method == "uvce"
            else baseline_steps(self.spec.method, self.spec.baseline)
        )
        fit = [place for place, reason in enumerate(failed) if reason is None]
        solutions = [Solution(failed=reason) for reason in failed]
        led_back: dict[int, float] = {}
        if fit:
            arguments = (
                self.sampler,
                images[fit],
                [prompts[place][0] for place in fit],
                [prompts[place][1] for place in fit],
                torch.tensor([unit.changes[place].target for place in fit], device=images.device),
                self.classifier,
            )
            seeds = [unit.changes[place].seed for place in fit]
            if self.baseline is not None:
                solved = self.baseline(*arguments, seeds=seeds, on_step=way.on_step)
            else:
                found = self.inversions.of(
                    [unit.changes[place].image_id for place in fit], *arguments[1:3]
                )
                solved = counterfactual(
                    *arguments,
                    self.spec.guidance,
                    masks=None if masks is None else masks[fit].to(images),
                    seeds=seeds,
                    inversion=found,
                    segmenter=self.segmenter,
                    on_step=way.on_step,
                )
                for place, ratio in zip(fit, found.psnr.tolist(), strict=True):
                    led_back[place] = ratio
            for place, solution in zip(fit, solved, strict=True):
                solutions[place] = solution
        rows = [
            {
                **self.row(change, before, solution),
                **way.columns(solution),
                "prompt_before": pair[0],
                "prompt_after": pair[1],
                "inversion_psnr": led_back.get(place),
            }
            for place, (change, before, solution, pair) in enumerate(
                zip(unit.changes, images, solutions, prompts, strict=True)
            )
        ]
        self.run.table(TABLE).write(unit.name, pa.Table.from_pylist(rows, schema=SCHEMA))
        return len(rows)

    def row(self, change: Change, before: torch.Tensor, solution: Solution) -> dict[str, Any]:
        """The table's row of one solution, its numbers measured on the stored pictures."""
        from whylens.jobs.images.pictures import difference, mask_png, measured, png, stored

        names = self.classifier.class_names
        row: dict[str, Any] = {
            "image_id": change.image_id,
            "source_class": change.source,
            "source_name": names[change.source],
            "target_class": change.target,
            "target_name": names[change.target],
            "before": png(before),
            "losses": [float(loss) for loss in solution.loss_trajectory],
            "flipped": False,
            "failed": solution.failed,
            "mask": mask_png(solution.mask),
            "attention_steps": solution.attention_steps,
            "blend_start": solution.blend_start,
            "probabilities": opinions.opinions(
                self.classifiers,
                [names[change.source], names[change.target]],
                before,
                solution.image,
            ),
            **self.measures(change, before, "before"),
        }
        if solution.image is None:
            return row
        gap = stored(solution.image) - stored(before)
        _, was = measured(self.classifier, before)
        features, probabilities = measured(self.classifier, solution.image)
        return row | {
            "after": png(solution.image),
            "difference": png(difference(before, solution.image)),
            "l1": float(gap.abs().mean()),
            "l2": float(gap.square().sum().sqrt()),
            # A photograph may look like the target already at the sampler's size: that's no flip.
            "flipped": int(was.argmax()) != change.target == int(probabilities.argmax()),
            "closest": self.closest(features.float().cpu().numpy()),
            **self.measures(change, solution.image, "after"),
        }

    def measures(self, change: Change, image: torch.Tensor, when: str) -> dict[str, float]:
        """Both classifiers' probabilities of source and target, as columns."""
        from whylens.jobs.images.pictures import measured

        columns = {}
        names = self.classifier.class_names
        for who, classifier in (("p", self.classifier), ("against", self.against)):
            if classifier is None:
                continue
            _, probabilities = measured(classifier, image)
            for side, index in (("source", change.source), ("target", change.target)):
                found = same_class(names[index], classifier)
                if found is not None:
                    columns[f"{who}_{side}_{when}"] = float(probabilities[found])
        return columns


def run(spec: CounterfactualsJobSpec) -> Run:
    """Change images of a run until the classifier says another class."""
    check_names(classifiers=spec.against, sampler=spec.sampler)
    source = Lineage(Run.open(spec.source))
    planned(source, str(source.setting("classifier")), spec.counterfactuals)
    run = JOB.start(spec)
    lineage = Lineage(run)
    with session():
        counterfactuals(
            run,
            lineage,
            spec.counterfactuals,
            sampler=spec.sampler,
            classifier=str(lineage.setting("classifier")),
            against=spec.against,
            placement=spec.placement,
        )
    run.finish()
    return run


JOB = Job(
    name="counterfactuals",
    help="The smallest change that makes a classifier say another class.",
    spec=CounterfactualsJobSpec,
    run=run,
    tables=(INVERSIONS, TABLE),
    part="whylens.jobs.report.parts.counterfactuals:COUNTERFACTUALS",
)
