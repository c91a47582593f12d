"""The evaluate job: counterfactuals of one or more runs, measured side by side."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pydantic import Field

from whylens.cluster.room import settled
from whylens.cluster.session import session
from whylens.errors import UnfinishedError, UsageError, WhylensError
from whylens.jobs.checking import check_names
from whylens.jobs.classes import same_class
from whylens.jobs.guided import counterfactuals
from whylens.jobs.images.rejected import REJECTED, ReadableImages, write_unreadable
from whylens.jobs.measuring import pairs
from whylens.jobs.measuring.evaluation import EVALUATION, IMAGE, MEASURED, SCHEMA, evaluated
from whylens.jobs.registry import Job
from whylens.jobs.spec import JobSpec
from whylens.jobs.stage import drop_others, work_through
from whylens.runs import Run
from whylens.runs.lineage import Lineage

if TYPE_CHECKING:
    import torch

    from whylens.classifiers import Classifier

COLUMNS = (
    "image_id", "source_name", "target_name", "source_class", "target_class", "flipped",
    "p_target_after", "before", "after",
)  # fmt: skip


class EvaluateSpec(JobSpec):
    """Measures of the counterfactuals of one or more runs, a row each."""

    runs: list[str] = Field(min_length=1, description="Run folders with counterfactuals.")
    independent: str = Field(
        description="A classifier that took no part in making the images: distances are in its "
        "features, which best know the same kind of images."
    )
    judges: list[str] = Field(
        default_factory=list,
        description="Classifiers that say what images show. Of the target where they have that "
        "class: how often they see it; of all: how often they say what they said before.",
    )
    margin: int = Field(
        0,
        ge=0,
        description="Pixels around an object's mask, of the images as the sampler takes them, that "
        "still count as inside.",
    )
    vgg: str | None = Field(None, description="LPIPS: file of torchvision's vgg16 weights.")
    lpips: str | None = Field(
        None, description="LPIPS: its own file vgg.pth; that of the package lpips by default."
    )
    inception: str | None = Field(
        None,
        description="FID: file of pytorch-fid's or torchvision's Inception v3, in whose features "
        "Frechet distances are measured, too.",
    )


@dataclass(frozen=True)
class EvaluateUnit:
    """A part of a run's counterfactuals."""

    name: str
    run: int
    part: str


def run(spec: EvaluateSpec) -> Run:
    """Measure each run's counterfactuals: tables `measured`, `evaluation`, `pairs`; report.html.

    A part of counterfactuals is a unit, a row of `evaluation` is a run, of `pairs` two classes of
    one. Numbers are means over the images that were made, of the pictures as they are stored;
    flip_rate is of all, failed ones too. Where nobody knows the object's place, or LPIPS' weights
    are not named, its columns are null. Frechet distance is that between the images before and
    after. A run of which a unit failed has no row, since that would be one of other images.

    Raises
    ------
    UsageError
        If a run has no counterfactuals, or a classifier or file is none, before anything is
        written.
    UnfinishedError
        If a run could not be measured; the others are.
    """
    from whylens.jobs.measuring import evaluation_report

    lineages = [Lineage(Run.open(folder)) for folder in spec.runs]
    parts = [lineage.table(counterfactuals.TABLE).units() for lineage in lineages]
    if len(set(spec.runs)) < len(spec.runs):
        raise UsageError("a run is named more than once")
    check_names(classifiers=[spec.independent, *spec.judges])
    if spec.vgg:
        from whylens.guidance.objectives import load_perceptual

        load_perceptual(spec.vgg, spec.lpips)
    if spec.inception:
        from whylens.guidance.inception import load_inception

        load_inception(spec.inception)
    with JOB.working(spec) as out:
        took_part = {str(lineage.setting("classifier")) for lineage in lineages}
        for name in sorted(took_part & {spec.independent, *spec.judges}):
            out.warn(f"{name} took part in making the images that it is to measure")
        done = set(out.table(EVALUATION).units())
        measured = out.table(MEASURED)
        every = {
            place: [EvaluateUnit(f"{place:04d}-{part}", place, part) for part in parts[place]]
            for place in range(len(lineages))
        }
        drop_others(out, [unit for of_run in every.values() for unit in of_run], MEASURED)
        before = set(measured.units())
        # A run that has more counterfactuals by now gets another row.
        todo = {
            place: of_run
            for place, of_run in every.items()
            if f"{place:04d}" not in done or not before.issuperset(unit.name for unit in of_run)
        }
        unfinished = None  # A run that can't be measured does not lose the others' figures.
        try:
            with session() as ray:
                placement = settled(ray, spec.placement)
                units = [unit for of_run in todo.values() for unit in of_run]
                arguments = (out, lineages, spec, placement.device)
                work_through(out, MEASURED, units, Measurer, arguments, placement)
        except UnfinishedError as error:
            unfinished = error
        with out.stage(EVALUATION):
            there = set(measured.units())
            for place, of_run in todo.items():
                names = [unit.name for unit in of_run]
                if not there.issuperset(names):
                    out.warn(
                        f"{spec.runs[place]} is left out: not all its images could be measured"
                    )
                    continue
                row = evaluated(lineages[place], spec.independent, spec.judges, measured, names)
                told = pa.Table.from_pylist(
                    pairs.by_pair(row, measured, names), schema=pairs.SCHEMA
                )
                out.table(pairs.PAIRS).write(f"{place:04d}", told)
                out.table(EVALUATION).write(
                    f"{place:04d}", pa.Table.from_pylist([row], schema=SCHEMA)
                )
        if measurable := out.table(EVALUATION).units():
            evaluation_report.write(out)
        if unfinished:
            raise unfinished
        if not measurable:
            raise WhylensError("no run could be measured: the table failures says why")
    return out


class Measurer:
    """A worker: holds classifiers and LPIPS, measures a part of a run's counterfactuals."""

    def __init__(
        self, run: Run, lineages: Sequence[Lineage], spec: EvaluateSpec, device: str
    ) -> None:
        """Load what the spec names onto the device."""
        from whylens.classifiers import load_classifier
        from whylens.guidance.inception import load_inception
        from whylens.guidance.objectives import load_perceptual

        self.run, self.lineages, self.margin = run, lineages, spec.margin
        self.device = device
        self.independent = load_classifier(spec.independent, self.device)
        self.judges = [load_classifier(name, self.device) for name in spec.judges]
        self.lpips = load_perceptual(spec.vgg, spec.lpips, self.device) if spec.vgg else None
        self.inception = load_inception(spec.inception, self.device) if spec.inception else None
        self.collections: dict[str, ReadableImages] = {}
        self.explained: dict[str, Classifier] = {}

    def __call__(self, unit: EvaluateUnit) -> int:
        """Measure the part's images; how many."""
        lineage = self.lineages[unit.run]
        rows = lineage.table(counterfactuals.TABLE).read_part(unit.part, COLUMNS).to_pylist()
        made = [row for row in rows if row["after"] is not None]
        names = (str(lineage.setting(name)) for name in ("images", "classifier"))
        measured = iter(self.measures(made, *names) if made else ())
        part = [
            {
                "run": lineage.runs[0].folder,
                **{name: row[name] for name in ("image_id", "source_name", "target_name")},
                "made": row["after"] is not None,
                "flipped": bool(row["flipped"]),
                "p_target": row["p_target_after"],
                **(next(measured) if row["after"] is not None else {}),
            }
            for row in rows
        ]
        write_unreadable(self.run, unit.name, *self.collections.values())
        self.run.table(MEASURED).write(unit.name, pa.Table.from_pylist(part, schema=IMAGE))
        return len(part)

    def measures(
        self, made: Sequence[Mapping[str, Any]], images: str, classifier: str
    ) -> Iterator[dict[str, Any]]:
        """The columns of each of the rows, which have an image after, of a collection, and were
        made for a classifier."""
        import torch

        from whylens.classifiers import load_classifier
        from whylens.guidance import measures
        from whylens.images.decoding import decode
        from whylens.images.tensors import to_tensor

        before, after = (
            torch.stack([to_tensor(decode(row[side])) for row in made]).to(self.device)
            for side in ("before", "after")
        )
        was, now = (measures.features_of(self.independent, side) for side in (before, after))
        if classifier not in self.explained:
            self.explained[classifier] = load_classifier(classifier, self.device)
        sources, targets = (
            torch.tensor([row[which] for row in made], device=self.device)
            for which in ("source_class", "target_class")
        )
        columns = {
            "cout": measures.transition(
                self.explained[classifier], before, after, sources, targets
            ),
            "l1": measures.l1(before, after),
            "l2": measures.l2(before, after),
            "feature_distance": measures.feature_distance(was, now),
            "features_before": was,
            "features_after": now,
            "said_before": self.said(before),
            "said_after": self.said(after),
        }
        if self.lpips is not None:
            with torch.inference_mode():
                pairs = zip(torch.split(before, 8), torch.split(after, 8), strict=True)
                columns["lpips"] = torch.cat([self.lpips(*pair) for pair in pairs])
        if self.inception is not None:
            with torch.inference_mode():
                for name, side in (("inception_before", before), ("inception_after", after)):
                    parts = torch.split(side, measures.BATCH)
                    columns[name] = torch.cat([self.inception(part) for part in parts])
        masks = self.masks(images, {row["image_id"] for row in made}, before.shape[-1])
        for place, row in enumerate(made):
            inside = outside = torch.tensor(torch.nan)
            if (mask := masks.get(row["image_id"])) is not None:
                wide = measures.grown(mask[None], self.margin).to(self.device)
                inside, outside = measures.change_by_place(before[[place]], after[[place]], wide)
            yield {
                **{name: values[place].tolist() for name, values in columns.items()},
                "target_classes": [same_class(row["target_name"], judge) for judge in self.judges],
                "change_inside": None if inside.isnan() else inside.item(),
                "change_outside": None if outside.isnan() else outside.item(),
            }

    def said(self, images: torch.Tensor) -> torch.Tensor:
        """The classes that the judges say of images [B, 3, H, W], [B, judges]."""
        import torch

        with torch.inference_mode():
            said = [
                torch.cat([judge.logits(part).argmax(1) for part in torch.split(images, 64)])
                for judge in self.judges
            ]
        return torch.stack(said, 1) if said else torch.zeros(len(images), 0)

    def masks(self, images: str, ids: Collection[str], size: int) -> dict[str, torch.Tensor]:
        """Masks [size, size] of the objects that are known, by id, cut as the images are."""
        import torch

        from whylens.images import open_collection
        from whylens.images.tensors import square_mask

        if images not in self.collections:
            self.collections[images] = ReadableImages(open_collection(images), "main")
        collection = self.collections[images]
        return {
            name: torch.from_numpy(square_mask(mask, size))
            for name, mask in collection.masks(collection.load(list(ids))).items()
        }


JOB = Job(
    name="evaluate",
    help="Measures of counterfactuals, a row for each run.",
    spec=EvaluateSpec,
    run=run,
    tables=(REJECTED, MEASURED, EVALUATION, pairs.PAIRS),
    show="whylens.jobs.measuring.terminal:show_evaluation",
    page="whylens.jobs.measuring.evaluation_report:write",
)
