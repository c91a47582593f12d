"""A finding: a component that responds to something other than the class's object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from whylens.jobs.labelled import label_rows
from whylens.jobs.report.optimisation import Optimisation, optimisation_of
from whylens.jobs.report.tables import grouped, number, rows_of, value
from whylens.runs import OpenedRun
from whylens.runs.lineage import Lineage

Rows = list[dict[str, Any]]

# A component: its class, and its number among the class's components.
Key = tuple[int, int]
# The tables that have images of a finding.
PICTURED = ("exemplars", "mined", "generated", "visualisations")
# Columns of findings that nothing is shown of: most of the table's bytes.
UNREAD = ("mined_ids",)
# From this share of images without the object on, the feature alone decides.
RELIES_SHARE = 0.5


@dataclass(frozen=True)
class Exemplar:
    """An image that activates a component: of the class itself, or mined without its object."""

    image_id: str
    alpha: float | None
    p_class: float | None
    thumb: bytes | None
    heatmap: bytes | None


@dataclass(frozen=True)
class Generated:
    """An image made so that a component rises, and the plain image it started from."""

    prompt: str
    seed: int | None
    image: bytes | None
    start_image: bytes | None
    p_class: float | None
    p_start: float | None
    alpha: float | None
    alpha_start: float | None
    losses: tuple[float, ...]
    failed: str | None
    optimisation: Optimisation = field(default_factory=Optimisation)


@dataclass(frozen=True)
class Visualisation:
    """The image near grey in which a component is strongest."""

    image: bytes | None
    alpha: float | None
    p: float | None


@dataclass(frozen=True)
class Label:
    """What a person said of a finding."""

    label: str
    who: str
    when: str
    note: str


@dataclass(frozen=True)
class Finding:
    """A component of a class that responds to something other than the class's object."""

    rank: int
    class_index: int
    class_name: str
    component: int
    suspicion: float | None
    sufficiency_share: float | None
    sufficiency_mean_p: float | None
    guess: tuple[str, ...]
    truth: str | None
    suspicious: bool
    evidence: Mapping[str, float]
    # Mean p over other classes' images in which the feature is strongest, and its interval; what
    # such images get anyway, and what is asked for.
    strata_p: float | None = None
    strata_p_low: float | None = None
    strata_p_high: float | None = None
    expected_p: float | None = None
    asked_p: float | None = None
    q_value: float | None = None
    strata: int | None = None
    exemplars: tuple[Exemplar, ...] = ()
    mined: tuple[Exemplar, ...] = ()
    generated: tuple[Generated, ...] = ()
    labels: tuple[Label, ...] = ()
    visualisation: Visualisation | None = None

    @property
    def key(self) -> Key:
        """Its class and its number among the class's components."""
        return self.class_index, self.component


class Verdict(Enum):
    """How far a feature goes without the object: shown as a label and explained in the method."""

    RELIES = "enough on its own"
    PULLS = "pulls, rarely enough alone"
    WEAK = "not confirmed"
    UNCHECKED = "not checked"


def verdict(finding: Finding) -> Verdict:
    """What the images without the object say about a finding.

    Only a suspicious finding relies or pulls; whether it is follows from the run's own images.
    """
    share, mean = finding.sufficiency_share, finding.sufficiency_mean_p
    if share is None and mean is None:
        return Verdict.UNCHECKED
    if not finding.suspicious:
        return Verdict.WEAK
    return Verdict.RELIES if (share or 0.0) >= RELIES_SHARE else Verdict.PULLS


SHOWN_APART = {
    "rank", "class_index", "class_name", "component", "suspicion", "sufficiency_share",
    "sufficiency_mean_p", "npfv_p", "guess", "truth", "strata_p", "strata_p_low", "strata_p_high",
    "expected_p", "asked_p", "q_value", "strata", "same_as", "row", "images",
}  # fmt: skip


def load_findings(run: Lineage) -> tuple[Finding, ...]:
    """The ranked findings with their images."""
    tables = {name: grouped(rows_of(run, name), key_of) for name in PICTURED}
    tables["labels"] = grouped(label_rows(run), key_of)
    return tuple(
        pictured(finding, {name: table.get(finding.key, []) for name, table in tables.items()})
        for finding in listed_findings(run)
    )


def listed_findings(run: Lineage) -> tuple[Finding, ...]:
    """The ranked findings, of the table findings alone: without images and labels."""
    if not run.has("findings"):
        return ()
    table = run.table("findings")
    rows = table.read([c for c in table.schema().names if c not in UNREAD]).to_pylist()
    return tuple(bare(row) for row in sorted(rows, key=lambda row: row.get("rank") or 0))


def bare(row: Mapping[str, Any]) -> Finding:
    """A row of the table findings, or of components (rank 0), without images and labels."""
    return value(
        Finding,
        row,
        rank=int(row.get("rank") or 0),
        class_name=str(row.get("class_name") or row["class_index"]),
        guess=_words(row.get("guess") or row.get("words")),
        suspicious=bool(row.get("suspicious", True)),
        evidence={
            name: float(column)
            for name, column in row.items()
            if name not in SHOWN_APART and number(column) is not None
        },
    )


def rows_of_finding(
    run: OpenedRun, finding: Finding, tables: Sequence[str] = PICTURED
) -> dict[str, Rows]:
    """What some tables have of one finding, pictures and all, and no more than that is read."""
    rows: dict[str, Rows] = {}
    for name in tables:
        if run.has(name):
            # One part has all the images of a finding, and parts stand about as findings do.
            near = finding.rank - 1 if name in ("exemplars", "mined") else None
            key = {"class_index": finding.class_index, "component": finding.component}
            table = run.table(name).where(key, near=near)
            rows[name] = [] if table is None else table.to_pylist()
    return rows


def pictured(finding: Finding, rows: Mapping[str, Rows]) -> Finding:
    """The finding with what the tables PICTURED and labels have of it, rows by their names."""
    npfvs = rows.get("visualisations")
    return replace(
        finding,
        exemplars=_exemplars(rows.get("exemplars", [])),
        mined=_exemplars(rows.get("mined", [])),
        generated=tuple(
            value(Generated, one, optimisation=optimisation_of(one))
            for one in rows.get("generated", [])
            if one.get("kind") != "start"
        ),
        labels=tuple(value(Label, one) for one in rows.get("labels", [])),
        visualisation=value(Visualisation, npfvs[-1], image=npfvs[-1]["npfv"]) if npfvs else None,
    )


def _exemplars(rows: Rows) -> tuple[Exemplar, ...]:
    in_order = sorted(rows, key=lambda row: row.get("place") or 0)
    return tuple(value(Exemplar, row) for row in in_order)


def key_of(row: Mapping[str, Any]) -> Key:
    """The component that a row is of."""
    return int(row["class_index"]), int(row["component"])


def _words(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(word.strip() for word in value.split(",") if word.strip())
    return tuple(str(word) for word in value or ())
