"""The exemplars job: findings in order, with exemplars, heat maps and feature visualisations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from whylens.cluster.placement import Placement
from whylens.cluster.session import session
from whylens.images import open_collection
from whylens.jobs.findings.stored import TABLE as COMPONENTS
from whylens.jobs.findings.stored import directions, read_components
from whylens.jobs.findings.visualisations import TABLE as VISUALISATIONS
from whylens.jobs.findings.visualisations import VisualisationSpec, visualisations
from whylens.jobs.images.embedded import COLUMNS, labels_used, read_embedded
from whylens.jobs.images.embedded import TABLE as IMAGES
from whylens.jobs.lineage import Lineage
from whylens.jobs.registry import Job
from whylens.jobs.spec import JobSpec
from whylens.jobs.stage import work_through
from whylens.jobs.truth import planted_truth
from whylens.runs import Run

if TYPE_CHECKING:
    from whylens.images.collection import ImageCollection
    from whylens.neural_pca import ClassComponents

FINDINGS, TABLE, MINED = "findings", "exemplars", "mined"


class ExemplarSettings(BaseModel):
    """Which components become findings, and how many images show each."""

    model_config = ConfigDict(extra="forbid")

    findings: int = Field(24, ge=1, description="At most this many findings.")
    at_least: int = Field(
        3, ge=0, description="Fill up to this many with the most suspicious components."
    )
    exemplars: int = Field(6, ge=1, description="Exemplars a finding.")
    index: str = Field(
        "Flat",
        description="faiss index of the features, as a factory string, where no index job ran.",
    )


class ExemplarsSpec(JobSpec):
    """Findings and their exemplars from judged components."""

    source: str = Field(description="Run folder of a components job.")
    exemplars: ExemplarSettings = Field(
        default_factory=lambda: ExemplarSettings(), description="What is shown."
    )
    visualisations: VisualisationSpec | None = Field(
        default_factory=lambda: VisualisationSpec(),
        description="Feature visualisations of findings, which count in the rank; null: none.",
    )


@dataclass(frozen=True)
class FindingUnit:
    """One finding."""

    name: str
    row: Mapping[str, Any]


def exemplars(
    run: Run,
    lineage: Lineage,
    settings: ExemplarSettings,
    visualised: VisualisationSpec | None,
    placement: Placement,
) -> None:
    """Find, draw exemplars and mined images of each finding (a unit), visualise, then rank them."""
    rows = find(lineage.table(COMPONENTS).read().to_pylist(), settings)
    units = [FindingUnit(f"finding-{place:05d}", row) for place, row in enumerate(rows, 1)]
    arguments = (run, lineage, settings, placement.device)
    work_through(run, TABLE, units, Exhibitor, arguments, placement)
    if run.table(FINDINGS).done("all"):
        return
    classifier = str(lineage.setting("classifier"))
    if visualised:
        found = directions(lineage, rows)
        visualisations(run, visualised, rows, found, classifier=classifier, placement=placement)
    truth = planted_truth(str(lineage.setting("images")), classifier)
    for row in rows:
        if truth is not None:
            feature = truth.get(row["class_name"], "")
            row["truth"] = feature if feature and feature in row["guess"][:1] else ""
    shown = run.table(TABLE).read(["class_index", "component", "heat_on_object", "object_area"])
    seen = run.table(VISUALISATIONS)
    npfvs = seen.read(["class_index", "component", "p"]).to_pylist() if seen.units() else []
    rows = ranked(rows, shown.to_pylist(), npfvs)
    run.table(FINDINGS).write("all", pa.Table.from_pylist(rows, schema=SCHEMA))


def find(components: list[dict[str, Any]], settings: ExemplarSettings) -> list[dict[str, Any]]:
    """Findings by falling suspicion, one for each feature of a class.

    Components of a class whose mined images, or whose first word, are the same show the same
    feature: the most suspicious stands for them.
    """
    ordered = sorted(components, key=lambda row: -row["suspicion"])
    seen: set[tuple[int, object]] = set()
    rows: list[dict[str, Any]] = []
    for row in ordered:
        enough = len(rows) >= settings.at_least
        if len(rows) >= settings.findings or (enough and not row["suspicious"]):
            break
        keys = {(row["class_index"], row["same_as"])}
        if row["words"]:
            keys.add((row["class_index"], row["words"][0]))
        if keys & seen:
            continue
        seen |= keys
        kept = {name: row[name] for name in SCHEMA.names if name in row}
        rows.append({**kept, "guess": row["words"], "truth": None})
    return rows


def ranked(
    findings: list[dict[str, Any]],
    exemplars: Sequence[Mapping[str, Any]],
    npfvs: Sequence[Mapping[str, Any]] = (),
) -> list[dict[str, Any]]:
    """The findings with ranks, their visualisations' probability, and their heat on objects.

    They come by suspicion. Where masks are known, it is lowered by the share of the heat that lies
    on the object, beyond what the object's area explains: such a feature may be a part of it.
    Where a feature was visualised it is lowered by up to half, as far as its NPFV lacks p_k = 1:
    the feature alone does not make the class. (A classifier that is not robust gives nearly every
    NPFV its class, and the factor says nothing.)
    """
    p_npfv = {(v["class_index"], v["component"]): float(v["p"]) for v in npfvs}
    rows = []
    for found in findings:
        key = found["class_index"], found["component"]
        mine = [e for e in exemplars if (e["class_index"], e["component"]) == key]
        known = [e for e in mine if e["heat_on_object"] is not None]
        names = ("heat_on_object", "object_area")
        means = {name: float(np.mean([e[name] for e in known])) for name in names if known}
        if key in p_npfv:
            means["npfv_p"] = p_npfv[key]
        rows.append({**found, **means})

    def standing(row: Mapping[str, Any]) -> float:
        excess = row.get("heat_on_object", 0.0) - row.get("object_area", 0.0)
        alone = (1 + row.get("npfv_p", 1.0)) / 2
        return float(row["suspicion"] * (1 - max(0.0, excess)) * alone)

    rows.sort(key=standing, reverse=True)
    return [{**row, "rank": place} for place, row in enumerate(rows, 1)]


SCHEMA = pa.schema(
    [
        ("rank", pa.int32()),
        ("class_index", pa.int32()),
        ("class_name", pa.string()),
        ("component", pa.int32()),
        ("suspicion", pa.float64()),
        ("suspicious", pa.bool_()),
        *((n, pa.float64()) for n in ("sufficiency_share", "sufficiency_mean_p", "lift")),
        *((n, pa.float64()) for n in ("variance_share", "logit_share")),
        # Over the exemplars whose masks are known.
        *((n, pa.float64()) for n in ("heat_on_object", "object_area")),
        # p_k of the feature visualisation; null where there is none.
        ("npfv_p", pa.float64()),
        ("guess", pa.list_(pa.string())),
        ("truth", pa.string()),
        ("mined_ids", pa.list_(pa.string())),
    ]
)
SHOWN = pa.schema(
    [
        ("class_index", pa.int32()),
        ("component", pa.int32()),
        ("place", pa.int32()),
        ("image_id", pa.string()),
        ("label", pa.int32()),
        ("alpha", pa.float32()),
        ("p_class", pa.float32()),
        # Shares of the positive heat, and of the pixels; null where no mask is known.
        ("heat_on_object", pa.float32()),
        ("object_area", pa.float32()),
        ("heatmap", pa.binary()),
        ("thumb", pa.binary()),
    ]
)


class Exhibitor:
    """A worker: holds the index and the collections, shows one finding a call."""

    def __init__(self, run: Run, lineage: Lineage, settings: ExemplarSettings, device: str) -> None:
        """Load the classifier, list the collections, open or build the index over features."""
        from whylens.classifiers import load_classifier
        from whylens.jobs.images.index import open_index
        from whylens.neural_pca import FeatureIndex

        self.run, self.lineage, self.settings = run, lineage, settings
        self.classifier = load_classifier(str(lineage.setting("classifier")), device)
        self.main = read_embedded(lineage.table(IMAGES).read(COLUMNS), "main")
        self.labels = labels_used(self.main)
        self.collection = open_collection(str(lineage.setting("images")))
        second = lineage.setting("second")
        self.pool = open_collection(str(second)) if second else self.collection
        self.index = open_index(lineage, "main", self.classifier) or FeatureIndex.build(
            self.main.features,
            self.main.ids,
            fingerprint=self.classifier.fingerprint,
            factory=settings.index,
        )

    def __call__(self, unit: FindingUnit) -> int:
        """Write exemplars and mined images of a finding; how many exemplars."""
        from whylens.neural_pca import component_exemplars

        row = unit.row
        k, component = row["class_index"], row["component"]
        found = read_components(self.lineage, k)
        of_class = [self.index.row_of(self.main.ids[p]) for p in np.flatnonzero(self.labels == k)]
        ids = list(
            component_exemplars(
                self.index,
                found,
                component,
                self.settings.exemplars,
                among=np.asarray(of_class, np.int64),
            ).ids
        )
        shown = self._show(self.collection, ids, k, component, found)
        mined = self._show(
            self.pool, row["mined_ids"][: self.settings.exemplars], k, component, found
        )
        self.run.table(MINED).write(unit.name, pa.Table.from_pylist(mined, schema=SHOWN))
        self.run.table(TABLE).write(unit.name, pa.Table.from_pylist(shown, schema=SHOWN))
        return len(shown)

    def _show(
        self,
        collection: ImageCollection,
        ids: list[str],
        k: int,
        component: int,
        found: ClassComponents,
    ) -> list[dict[str, Any]]:
        import torch

        from whylens.classifiers.heatmap import component_heatmap, overlay
        from whylens.images.tensors import square, thumbnail, to_png, to_tensor

        if not ids:
            return []
        records = {record.id: record for record in collection.records}
        side = max(self.classifier.image_size, 160)
        pictures = [square(collection.load(records[name]), side) for name in ids]
        images = torch.stack([to_tensor(picture) for picture in pictures])
        images = images.to(self.classifier.device)
        direction = torch.from_numpy(found.directions[component]).float().to(images.device)
        heats = component_heatmap(self.classifier, images, direction).float().cpu().numpy()
        with torch.no_grad():
            features = self.classifier.features(images)
            p_class = self.classifier.head(features).softmax(1)[:, k].cpu().numpy()
        alphas = found.alphas(features.float().cpu().numpy())[:, component]
        masks = [collection.object_mask(records[name]) for name in ids]
        return [
            {
                "class_index": k,
                "component": component,
                "place": place,
                "image_id": name,
                "label": self._label(records[name].class_name),
                "alpha": float(alphas[place]),
                "p_class": float(p_class[place]),
                **_overlap(heats[place], masks[place]),
                "heatmap": to_png(overlay(pictures[place], heats[place])),
                "thumb": thumbnail(pictures[place], 224),
            }
            for place, name in enumerate(ids)
        ]

    def _label(self, class_name: str | None) -> int:
        from whylens.images import match_classes

        if class_name is None:
            return -1
        return match_classes([class_name], self.classifier.class_names).get(class_name, -1)


def _overlap(heat: np.ndarray, mask: np.ndarray | None) -> dict[str, float | None]:
    """The columns heat_on_object and object_area of one image; None where nobody knows.

    The heat [S, S] is that of the image's centre square; the mask [H, W] is the whole image's.
    """
    import torch

    from whylens.classifiers.heatmap import share_inside
    from whylens.images.tensors import square_mask

    if mask is None:
        return {"heat_on_object": None, "object_area": None}
    mask = square_mask(mask, len(heat))
    share = float(share_inside(torch.from_numpy(heat)[None], torch.from_numpy(mask)[None]))
    # Where nothing raises the component there is no heat to share out.
    return {"heat_on_object": None if np.isnan(share) else share, "object_area": float(mask.mean())}


def run(spec: ExemplarsSpec) -> Run:
    """Find, show and rank the findings of a run's components."""
    run = JOB.start(spec)
    with session():
        exemplars(run, Lineage(run), spec.exemplars, spec.visualisations, spec.placement)
    run.finish()
    return run


JOB = Job(
    name="exemplars",
    help="Findings in order, with images that show them.",
    spec=ExemplarsSpec,
    run=run,
    tables=(MINED, TABLE, VISUALISATIONS, FINDINGS),
    show="whylens.jobs.findings.terminal:show_findings",
    part="whylens.jobs.report.parts.findings:FINDINGS",
)
