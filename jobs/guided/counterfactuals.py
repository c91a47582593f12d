"""The counterfactuals job: real images, changed as little as possible until the decision flips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from whylens.cluster.session import session
from whylens.errors import UsageError
from whylens.jobs.checking import check_names
from whylens.jobs.classes import same_class
from whylens.jobs.columns import Rows, columns
from whylens.jobs.guided.counterfactual_plan import Change, CounterfactualSpec, plan, unnamed
from whylens.jobs.guided.inversions import INVERSIONS, Inversions
from whylens.jobs.guided.masks import check_folder, given_masks
from whylens.jobs.guided.methods import baseline_steps, check_baseline, load_baseline
from whylens.jobs.guided.models import Models
from whylens.jobs.guided.prompts import prompt_pair
from whylens.jobs.guided.real_images import RealImages
from whylens.jobs.guided.spec import Against, GuidedSpec
from whylens.jobs.guided.targets import NEAR
from whylens.jobs.guided.worker import SHARED, GuidedWorker, Made, Picture
from whylens.jobs.images.pictures import mask_png
from whylens.jobs.registry import Job
from whylens.jobs.stage import Batch, drop_others, work_through
from whylens.runs import Run
from whylens.runs.lineage import Lineage

if TYPE_CHECKING:
    import torch

    from whylens.classifiers import Classes

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


class CounterfactualsJobSpec(GuidedSpec):
    """Counterfactuals of images that were embedded."""

    source: str = Field(description="Run folder of an embed or investigate job.")
    against: Against = Field([])
    counterfactuals: CounterfactualSpec = Field(
        CounterfactualSpec(),
        description="Which images are changed, and how.",
    )


def planned(lineage: Lineage, classifier: str, spec: CounterfactualSpec) -> list[Batch[Change]]:
    """The units for the main collection of the nearest table of images; raises as `plan`."""
    from whylens.classifiers import describe, load_classifier

    table = lineage.table("images").read(["id", "label", "top5_classes", "collection", "caption"])
    main = table.filter(pc.equal(table["collection"], "main"))
    # Nearness goes by the head's rows, all else by classes.
    known: Classes = load_classifier(classifier) if spec.target == NEAR else describe(classifier)
    check_folder(spec.masks, spec.guidance.editing.mask)
    # What these refuse, before any work.
    if spec.method != "uvce":
        check_baseline(spec.method, spec.baseline, known)
    check_segmenter(spec)
    return plan(Rows(main), known, spec)


def check_segmenter(spec: CounterfactualSpec) -> None:
    """Refuse a segmenter that is none, or that has no mask to refine: UsageError."""
    from whylens.guidance.segment import kind_of

    if spec.segmenter is None:
        return
    if spec.guidance.editing.mask != "attention" or spec.method != "uvce":
        raise UsageError(
            f"the segmenter {spec.segmenter!r} has no mask to refine: it takes "
            "guidance.editing.mask = attention and method = uvce, or leave it out"
        )
    kind_of(spec.segmenter)


def counterfactuals(run: Run, lineage: Lineage, spec: CounterfactualSpec, models: Models) -> None:
    """The stage: what is missing of the table counterfactuals, from the table images."""
    units, models = planned(lineage, models.classifier, spec), models.of_stage(spec.placement)
    if told := unnamed([change for unit in units for change in unit.tasks], spec):
        run.warn(told)
    drop_others(run, units, TABLE, spec=spec)
    work_through(run, TABLE, units, Changer, (run, lineage, models, spec), models.placement)


class Changer(GuidedWorker[CounterfactualSpec]):
    """A worker: changes one unit's images, writes its part."""

    def __init__(
        self, run: Run, lineage: Lineage, models: Models, spec: CounterfactualSpec
    ) -> None:
        from whylens.guidance.segment import Segmenter

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
        self.segmenter = Segmenter(spec.segmenter, device) if spec.segmenter else None
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
    words = spec.counterfactuals.asks_words
    check_names(classifiers=spec.against, sampler=spec.sampler, words=words)
    source = Lineage(Run.open(spec.source))
    classifier = str(source.setting("classifier"))
    planned(source, classifier, spec.counterfactuals)
    with JOB.working(spec) as run:
        models = Models(spec.sampler, classifier, spec.against)
        with session() as ray:
            counterfactuals(run, Lineage(run), spec.counterfactuals, models.on(ray, spec.placement))
    return run


JOB = Job(
    name="counterfactuals",
    help="The smallest change that makes a classifier say another class.",
    spec=CounterfactualsJobSpec,
    run=run,
    tables=(INVERSIONS, TABLE),
    part="whylens.jobs.report.parts.counterfactuals:COUNTERFACTUALS",
)
