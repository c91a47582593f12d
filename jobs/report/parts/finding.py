"""A finding: a component that responds to something other than the class's object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from whylens.jobs.labelled import label_rows
from whylens.jobs.lineage import Lineage
from whylens.jobs.report.tables import losses, number, rows_of
from whylens.jobs.report.way import Way, way_of

# From this share of images without the object on, the feature alone decides.
RELIES_SHARE = 0.5
# From this mean class probability without the object on, the feature pulls.
PULLS_MEAN_P = 0.1


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
    way: Way = field(default_factory=Way)


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
    exemplars: tuple[Exemplar, ...] = ()
    mined: tuple[Exemplar, ...] = ()
    generated: tuple[Generated, ...] = ()
    labels: tuple[Label, ...] = ()
    visualisation: Visualisation | None = None


class Verdict(Enum):
    """How far a feature goes without the object: shown as a label and explained in the method."""

    RELIES = "enough on its own"
    PULLS = "pulls, rarely enough alone"
    WEAK = "not confirmed"
    UNCHECKED = "not checked"


def verdict(finding: Finding) -> Verdict:
    """What the images without the object say about a finding."""
    share, mean = finding.sufficiency_share, finding.sufficiency_mean_p
    if share is None and mean is None:
        return Verdict.UNCHECKED
    if (share or 0.0) >= RELIES_SHARE:
        return Verdict.RELIES
    if (share or 0.0) >= PULLS_MEAN_P or (mean or 0.0) >= PULLS_MEAN_P:
        return Verdict.PULLS
    return Verdict.WEAK


SHOWN_APART = {
    "rank", "class_index", "class_name", "component", "suspicion", "sufficiency_share",
    "sufficiency_mean_p", "npfv_p", "guess", "truth",
}  # fmt: skip


def load_findings(run: Lineage) -> tuple[Finding, ...]:
    """The ranked findings with their images."""
    exemplars = _by_component(rows_of(run, "exemplars"))
    mined = _by_component(rows_of(run, "mined"))
    generated: dict[tuple[int, int], list[Generated]] = {}
    for row in rows_of(run, "generated"):
        if row.get("kind") != "start":
            generated.setdefault(_key(row), []).append(_generated(row))
    visualised = {
        _key(row): Visualisation(row.get("npfv"), number(row.get("alpha")), number(row.get("p")))
        for row in rows_of(run, "visualisations")
    }
    labels: dict[tuple[int, int], list[Label]] = {}
    for row in label_rows(run):
        words = (str(row.get(name) or "") for name in ("label", "who", "when", "note"))
        labels.setdefault(_key(row), []).append(Label(*words))
    findings = []
    for row in sorted(rows_of(run, "findings"), key=lambda row: row.get("rank", 0)):
        evidence = {
            name: float(value)
            for name, value in row.items()
            if name not in SHOWN_APART and number(value) is not None
        }
        findings.append(
            Finding(
                rank=int(row["rank"]),
                class_index=int(row["class_index"]),
                class_name=str(row.get("class_name") or row["class_index"]),
                component=int(row["component"]),
                suspicion=number(row.get("suspicion")),
                sufficiency_share=number(row.get("sufficiency_share")),
                sufficiency_mean_p=number(row.get("sufficiency_mean_p")),
                guess=_words(row.get("guess")),
                truth=row.get("truth"),
                suspicious=bool(row.get("suspicious", True)),
                evidence=evidence,
                exemplars=tuple(exemplars.get(_key(row), ())),
                mined=tuple(mined.get(_key(row), ())),
                generated=tuple(generated.get(_key(row), ())),
                labels=tuple(labels.get(_key(row), ())),
                visualisation=visualised.get(_key(row)),
            )
        )
    return tuple(findings)


def _by_component(rows: list[dict[str, Any]]) -> dict[tuple[int, int], list[Exemplar]]:
    found: dict[tuple[int, int], list[Exemplar]] = {}
    for row in sorted(rows, key=lambda row: row.get("place") or 0):
        found.setdefault(_key(row), []).append(
            Exemplar(
                image_id=str(row.get("image_id")),
                alpha=number(row.get("alpha")),
                p_class=number(row.get("p_class")),
                thumb=row.get("thumb"),
                heatmap=row.get("heatmap"),
            )
        )
    return found


def _generated(row: Mapping[str, Any]) -> Generated:
    return Generated(
        prompt=str(row.get("prompt") or ""),
        seed=row.get("seed"),
        image=row.get("image"),
        start_image=row.get("start_image"),
        p_class=number(row.get("p_class")),
        p_start=number(row.get("p_start")),
        alpha=number(row.get("alpha")),
        alpha_start=number(row.get("alpha_start")),
        losses=losses(row),
        failed=row.get("failed") or None,
        way=way_of(row),
    )


def _key(row: Mapping[str, Any]) -> tuple[int, int]:
    return int(row["class_index"]), int(row["component"])


def _words(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(word.strip() for word in value.split(",") if word.strip())
    return tuple(str(word) for word in value or ())
