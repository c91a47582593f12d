"""The exemplars job: findings in order, with exemplars, heat maps and feature visualisations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from whylens.cluster.placement import Resources
from whylens.cluster.room import of_stage
from whylens.jobs.columns import columns
from whylens.jobs.findings.exhibitor import EXEMPLARS, MINED, Exhibitor, FindingUnit
from whylens.jobs.findings.finder import unit_name
from whylens.jobs.findings.stored import directions
from whylens.jobs.findings.verdicts import judged_rows
from whylens.jobs.findings.visualisations import VISUALISATIONS, VisualisationSpec, visualisations
from whylens.jobs.images.embedded import IMAGES
from whylens.jobs.images.rejected import REJECTED
from whylens.jobs.registry import Job
from whylens.jobs.spec import JobSpec, StageSettings
from whylens.jobs.stage import drop_others, mark, work_through
from whylens.jobs.truth import planted_truth
from whylens.runs import Run
from whylens.runs.lineage import Lineage

FINDINGS = "findings"
SCHEMA = pa.schema(
    [
        *columns(pa.int32(), "rank", "class_index"),
        ("class_name", pa.string()),
        ("component", pa.int32()),
        ("suspicion", pa.float64()),
        ("suspicious", pa.bool_()),
        *columns(pa.float64(), "sufficiency_share", "sufficiency_mean_p", "lift"),
        *columns(pa.float64(), "strata_p", "strata_p_low", "strata_p_high"),
        *columns(pa.float64(), "expected_p", "asked_p", "q_value"),
        ("strata", pa.int32()),
        *columns(pa.float64(), "variance_share", "logit_share"),
        # Over the exemplars whose masks are known.
        *columns(pa.float64(), "heat_on_object", "object_area"),
        # Of the exemplars' heat maps; null where it is not asked for.
        *columns(pa.float64(), "deletion", "insertion", "random_deletion", "random_insertion"),
        # p_k of the feature visualisation; null where there is none.
        ("npfv_p", pa.float64()),
        ("guess", pa.list_(pa.string())),
        ("truth", pa.string()),
        ("mined_ids", pa.list_(pa.string())),
    ]
)


# Columns of exemplars of which a finding has the mean.
MASKED = ("heat_on_object", "object_area")
CURVES = ("deletion", "insertion", "random_deletion", "random_insertion")
MEANS = (*MASKED, *CURVES)


class ExemplarSettings(StageSettings):
    """Which components become findings, and how many images show each."""

    findings: int = Field(24, ge=1, description="At most this many findings.")
    at_least: int = Field(
        3, ge=0, description="Fill up to this many with the most suspicious components."
    )
    exemplars: int = Field(6, ge=1, description="Exemplars a finding.")
    curves: int = Field(
        0,
        ge=0,
        description="Steps of each exemplar's deletion and insertion curve, which tell whether its "
        "heat lies on what the classifier goes by, beside random heat's (20 are fine, at 168 looks "
        "an image); 0: none.",
    )
    index: str = Field(
        "Flat",
        description="faiss index of the features, as a factory string, where no index job ran.",
    )


class ExemplarsSpec(JobSpec):
    """Findings and their exemplars from judged components."""

    source: str = Field(description="Run folder of a components job.")
    exemplars: ExemplarSettings = ExemplarSettings()
    # They count in the rank; null: none.
    visualisations: VisualisationSpec | None = VisualisationSpec()


def exemplars(
    run: Run,
    lineage: Lineage,
    settings: ExemplarSettings,
    visualised: VisualisationSpec | None,
    placement: Resources,
) -> None:
    """Find, draw exemplars and mined images of each finding (a unit), visualise, then rank them."""
    rows = find(judged_rows(lineage), settings)
    units = units_of(rows, lineage.parts(IMAGES))
    drop_others(run, units, EXEMPLARS, MINED)
    own = of_stage(settings.placement, placement)
    arguments = (
        run, lineage, settings.exemplars, settings.curves, settings.index, own.device
    )  # fmt: skip
    work_through(run, EXEMPLARS, units, Exhibitor, arguments, own)
    classifier = str(lineage.setting("classifier"))
    if visualised:
        found = directions(lineage, rows)
        visualisations(run, visualised, rows, found, classifier=classifier, placement=placement)
    truth = planted_truth(str(lineage.setting("images")), classifier)
    for row in rows:
        if truth is not None:
            feature = truth.get(row["class_name"], "")
            row["truth"] = feature if feature and feature in row["guess"][:1] else ""
    shown = run.table(EXEMPLARS).read(["class_index", "component", *MEANS])
    seen = run.table(VISUALISATIONS)
    npfvs = seen.read(["class_index", "component", "p"]).to_pylist() if seen.units() else []
    rows = ranked(rows, shown.to_pylist(), npfvs)
    run.table(FINDINGS).keep("all", pa.Table.from_pylist(rows, schema=SCHEMA))


def units_of(rows: Sequence[Mapping[str, Any]], parts: Sequence[str]) -> list[FindingUnit]:
    """A unit for each finding, named by its component and by the parts of the images that it is
    of: what is shown of a finding does not depend on its rank."""
    made_from = mark(parts)
    return [
        FindingUnit(
            f"{unit_name(row['class_index'])}-component-{row['component']:05d}-{made_from}", row
        )
        for row in rows
    ]


def find(components: list[dict[str, Any]], settings: ExemplarSettings) -> list[dict[str, Any]]:
    """Findings by verdict, then by falling suspicion, one for each feature of a class.

    Components of a class whose mined images, or whose first word, are the same show the same
    feature: the most suspicious stands for them.
    """
    ordered = sorted(
        components,
        key=lambda row: (not row["suspicious"], -row["suspicion"], -row["sufficiency_mean_p"]),
    )
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

    They come by verdict, then by suspicion. Where masks are known, it is lowered by the share of
    the heat that lies on the object, beyond what the object's area explains: such a feature may be
    a part of it. Where a feature was visualised it is lowered by up to half, as far as its NPFV
    lacks p_k = 1: the feature alone does not make the class. (A classifier that is not robust gives
    nearly every NPFV its class, and the factor says nothing.)
    """
    p_npfv = {(v["class_index"], v["component"]): float(v["p"]) for v in npfvs}
    rows = []
    for found in findings:
        key = found["class_index"], found["component"]
        mine = [e for e in exemplars if (e["class_index"], e["component"]) == key]
        known = [e for e in mine if e["heat_on_object"] is not None]
        means = {name: float(np.mean([e[name] for e in known])) for name in MASKED if known}
        for name in CURVES:
            areas = [e[name] for e in mine if e.get(name) is not None]
            if areas:
                means[name] = float(np.mean(areas))
        if key in p_npfv:
            means["npfv_p"] = p_npfv[key]
        rows.append({**found, **means})

    def standing(row: Mapping[str, Any]) -> tuple[bool, float]:
        excess = row.get("heat_on_object", 0.0) - row.get("object_area", 0.0)
        alone = (1 + row.get("npfv_p", 1.0)) / 2
        held = float(row["suspicion"] * (1 - max(0.0, excess)) * alone)
        return bool(row.get("suspicious", True)), held

    rows.sort(key=standing, reverse=True)
    return [{**row, "rank": place} for place, row in enumerate(rows, 1)]


def run(spec: ExemplarsSpec) -> Run:
    """Find, show and rank the findings of a run's components."""
    with JOB.on_workers(spec) as (run, lineage, placement):
        exemplars(run, lineage, spec.exemplars, spec.visualisations, placement)
    return run


JOB = Job(
    name="exemplars",
    help="Findings in order, with images that show them.",
    spec=ExemplarsSpec,
    run=run,
    tables=(REJECTED, MINED, EXEMPLARS, VISUALISATIONS, FINDINGS),
    show="whylens.jobs.findings.terminal:show_findings",
    part="whylens.jobs.report.parts.findings:FINDINGS",
)
