"""The evaluate job: counterfactuals of one or more runs, measured side by side."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pydantic import Field

from whylens.cluster.progress import progress
from whylens.errors import UsageError
from whylens.jobs.classes import same_class
from whylens.jobs.guided import counterfactuals
from whylens.jobs.lineage import Lineage
from whylens.jobs.registry import Job
from whylens.jobs.spec import JobSpec
from whylens.runs import Run

if TYPE_CHECKING:
    import torch

    from whylens.classifiers import Classifier
    from whylens.guidance.objectives import PerceptualNetwork

TABLE = "evaluation"
NUMBERS = (
    "flip_rate",
    "target_probability",
    "l1",
    "l2",
    "feature_distance",
    "lpips",
    "change_inside",
    "change_outside",
    "frechet",
)
SCHEMA = pa.schema(
    [
        ("run", pa.string()),
        ("method", pa.string()),
        ("classifier", pa.string()),
        ("independent", pa.string()),
        ("images", pa.int32()),
        ("failed", pa.int32()),
        *((name, pa.float64()) for name in NUMBERS),
        (
            "attributes",
            pa.list_(
                pa.struct(
                    [("judge", pa.string()), ("target", pa.float64()), ("kept", pa.float64())]
                )
            ),
        ),
    ]
)


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


def run(spec: EvaluateSpec) -> Run:
    """Measure each run's counterfactuals: the table `evaluation`, a part a run, and report.html.

    Numbers are means over the images that were made, of the pictures as they are stored; flip_rate
    is of all, failed ones too. Where nobody knows the object's place, or LPIPS' weights are not
    named, its columns are null. Frechet distance is that between the images before and after.

    Raises
    ------
    UsageError
        If a run has no counterfactuals, or a classifier or file is none, before anything is
        written.
    """
    from whylens.classifiers import load_classifier
    from whylens.guidance.objectives import load_perceptual
    from whylens.jobs.measuring import evaluation_report

    lineages = [Lineage(Run.open(folder)) for folder in spec.runs]
    for lineage in lineages:
        lineage.table(counterfactuals.TABLE)
    if len(set(spec.runs)) < len(spec.runs):
        raise UsageError("a run is named more than once")
    independent = load_classifier(spec.independent, spec.placement.device)
    judges = {name: load_classifier(name, spec.placement.device) for name in spec.judges}
    network = load_perceptual(spec.vgg, spec.lpips, spec.placement.device) if spec.vgg else None
    out = JOB.start(spec)
    table = out.table(TABLE)
    todo = [
        (f"{place:04d}", lineage)
        for place, lineage in enumerate(lineages)
        if not table.done(f"{place:04d}")
    ]
    took_part = {str(lineage.setting("classifier")) for lineage in lineages}
    for name in sorted(took_part & {spec.independent, *spec.judges}):
        out.warn(f"{name} took part in making the images that it is to measure")
    with out.stage(TABLE):
        done = len(lineages) - len(todo)
        for unit, lineage in progress(todo, stage=TABLE, total=len(lineages), done=done):
            row = evaluated(lineage, spec, independent, judges, network)
            table.write(unit, pa.Table.from_pylist([row], schema=SCHEMA))
    evaluation_report.write(out)
    out.finish()
    return out


def evaluated(
    lineage: Lineage,
    spec: EvaluateSpec,
    independent: Classifier,
    judges: Mapping[str, Classifier],
    network: PerceptualNetwork | None,
) -> dict[str, Any]:
    """The table's row of one run."""
    import torch

    from whylens.guidance import measures

    rows = lineage.table(counterfactuals.TABLE).read().to_pylist()
    made = [row for row in rows if row["after"] is not None]
    settings = lineage.setting("counterfactuals") or {}
    found: dict[str, Any] = {
        "run": lineage.runs[0].folder,
        # Runs from before there were others have no such setting.
        "method": settings.get("method", "uvce"),
        "classifier": lineage.setting("classifier"),
        "independent": spec.independent,
        "images": len(rows),
        "failed": len(rows) - len(made),
        "flip_rate": sum(bool(row["flipped"]) for row in rows) / len(rows),
    }
    if not made:
        return found
    before, after = (
        torch.stack([opened(row[side]) for row in made]).to(spec.placement.device)
        for side in ("before", "after")
    )

    def mean(values: torch.Tensor) -> float:
        return float(values.double().mean())

    found |= {
        "target_probability": sum(row["p_target_after"] for row in made) / len(made),
        "l1": mean(measures.l1(before, after)),
        "l2": mean(measures.l2(before, after)),
        "feature_distance": mean(measures.feature_distance(independent, before, after)),
    }
    if len(made) > 1:
        found["frechet"] = measures.frechet(
            *(measures.features_of(independent, side).cpu() for side in (before, after))
        )
    if network is not None:
        with torch.inference_mode():
            pairs = zip(torch.split(before, 8), torch.split(after, 8), strict=True)
            found["lpips"] = mean(torch.cat([network(*pair) for pair in pairs]))
    known, masks = object_masks(lineage, [row["image_id"] for row in made], before.shape[-1])
    if known:
        places = measures.change_by_place(
            before[known],
            after[known],
            measures.grown(masks, spec.margin).to(spec.placement.device),
        )
        for name, values in zip(("change_inside", "change_outside"), places, strict=True):
            found[name] = float(values.double().nanmean())
    targets = [row["target_name"] for row in made]
    found["attributes"] = [
        {"judge": name, **opinion(judge, targets, before, after)} for name, judge in judges.items()
    ]
    return found


def opinion(
    judge: Classifier, targets: Sequence[str], before: torch.Tensor, after: torch.Tensor
) -> dict[str, float | None]:
    """How often a judge sees the target, where it has that class, and says the same as before."""
    import torch

    with torch.inference_mode():
        was, now = (
            torch.cat([judge.logits(part) for part in torch.split(side, 64)]).argmax(1).tolist()
            for side in (before, after)
        )
    wanted = [same_class(target, judge) for target in targets]
    seen = [k == said for k, said in zip(wanted, now, strict=True) if k is not None]
    kept = [a == b for a, b in zip(was, now, strict=True)]
    return {"target": sum(seen) / len(seen) if seen else None, "kept": sum(kept) / len(kept)}


def opened(picture: bytes) -> torch.Tensor:
    """A stored picture as [3, H, W] in [0, 1]."""
    import numpy as np
    from PIL import Image

    from whylens.images.tensors import to_tensor

    return to_tensor(np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")))


def object_masks(
    lineage: Lineage, image_ids: Sequence[str], size: int
) -> tuple[list[int], torch.Tensor]:
    """Which images have a mask of their object, and the masks [b, S, S], cut as the images are."""
    import numpy as np
    import torch

    from whylens.images import open_collection
    from whylens.images.tensors import to_tensor

    collection = open_collection(str(lineage.setting("images")))
    wanted = set(image_ids)
    records = {record.id: record for record in collection.records if record.id in wanted}
    known, masks = [], []
    for place, image_id in enumerate(image_ids):
        record = records.get(image_id)
        mask = None if record is None else collection.object_mask(record)
        if mask is not None:
            known.append(place)
            pixels = np.repeat(mask[..., None], 3, 2).astype(np.uint8) * 255
            masks.append(to_tensor(pixels, size)[0] > 0.5)
    return known, torch.stack(masks) if masks else torch.zeros(0, size, size, dtype=torch.bool)


JOB = Job(
    name="evaluate",
    help="Measures of counterfactuals, a row for each run.",
    spec=EvaluateSpec,
    run=run,
    tables=(TABLE,),
    show="whylens.jobs.measuring.terminal:show_evaluation",
    page="whylens.jobs.measuring.evaluation_report:write",
)
