"""What a run folder holds, as plain values: the one loader of the report and the dashboard.

Every table may be missing (its stage did not run) and may lack columns that only some runs have:
what is not there becomes None or an empty tuple, never an error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from whylens.jobs.lineage import Lineage
from whylens.jobs.people.labels import label_rows
from whylens.runs import Run

TABLES = (
    "images",
    "rejected",
    "components",
    "exemplars",
    "mined",
    "findings",
    "visualisations",
    "generated",
    "counterfactuals",
    "disagreements",
    "neuron_words",
    "neurons",
    "labels",
)


def progress(folder: str) -> tuple[tuple[str, int], ...]:
    """How many parts each table has, here and in the runs this one builds on: grows as they do.

    UsageError where there is no run.
    """
    runs = Lineage(Run.open(folder)).runs
    return tuple((name, sum(len(run.table(name).units()) for run in runs)) for name in TABLES)


def read(run: Lineage, name: str, columns: Sequence[str] | None = None) -> pa.Table | None:
    """A table, of the wanted columns those that exist; None: its stage has not run."""
    if not run.has(name):
        return None
    table = run.table(name)
    try:
        return table.read(columns)
    except (pa.ArrowInvalid, KeyError):
        whole = table.read()
        return whole.select([c for c in whole.column_names if columns is None or c in columns])


def rows_of(run: Lineage, name: str) -> list[dict[str, Any]]:
    """A small table as dictionaries; empty where the stage did not run."""
    table = read(run, name)
    return [] if table is None else table.to_pylist()


@dataclass(frozen=True)
class Exemplar:
    """An image that activates a component: of the class itself, or mined without its object."""

    image_id: str
    alpha: float | None
    p_class: float | None
    thumb: bytes | None
    heatmap: bytes | None


@dataclass(frozen=True)
class Near:
    """An image of the run that a generated one is close to."""

    image_id: str
    distance: float | None
    thumb: bytes | None


@dataclass(frozen=True)
class Opinion:
    """What a classifier says of an image before and after it was changed."""

    classifier: str
    class_name: str
    before: float | None
    after: float | None


@dataclass(frozen=True)
class Way:
    """What an optimisation passed through, who says what of it, and what it came close to.

    `mask`: where a real image could change; `psnr`: how well its inversion led back to it, in dB.
    """

    trajectory: tuple[tuple[int, bytes], ...] = ()
    opinions: tuple[Opinion, ...] = ()
    closest: tuple[Near, ...] = ()
    mask: bytes | None = None
    psnr: float | None = None


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
    way: Way = Way()


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


@dataclass(frozen=True)
class Counterfactual:
    """A real image, and what had to change for the classifier to say the target class."""

    image_id: str
    source: str
    target: str
    before: bytes | None
    after: bytes | None
    difference: bytes | None
    p_source_before: float | None
    p_source_after: float | None
    p_target_before: float | None
    p_target_after: float | None
    l1: float | None
    l2: float | None
    flipped: bool
    failed: str | None
    losses: tuple[float, ...]
    against: Mapping[str, float]
    way: Way = Way()


@dataclass(frozen=True)
class Disagreement:
    """An image made so that classifier A says the class and classifier B does not.

    `a` and `b` are their names; None in a run of two only.
    """

    class_name: str
    prompt: str
    seed: int | None
    image: bytes | None
    start_image: bytes | None
    p_a: float | None
    p_b: float | None
    p_a_start: float | None
    p_b_start: float | None
    losses: tuple[float, ...]
    failed: str | None
    a: str | None = None
    b: str | None = None
    way: Way = Way()


@dataclass(frozen=True)
class NeuronWord:
    """A word of a neuron's exemplars, plain images of it, and their mean activation."""

    word: str
    prompt: str
    images: tuple[bytes, ...]
    activation: float | None
    chosen: bool


@dataclass(frozen=True)
class NeuronImage:
    """An image in which a neuron was raised or lowered; `kind` is image, up or down."""

    kind: str
    image_id: str | None
    prompt: str
    before: bytes | None
    after: bytes | None
    difference: bytes | None
    activation_before: float | None
    activation_after: float | None
    failed: str | None
    way: Way = Way()


@dataclass(frozen=True)
class Neuron:
    """A feature phi_n: its words and its images; `mean` and `deviation` over the run's images."""

    index: int
    class_name: str
    rank: int | None
    share: float | None
    mean: float | None
    deviation: float | None
    words: tuple[NeuronWord, ...]
    images: tuple[NeuronImage, ...]

    @property
    def word(self) -> str | None:
        """The word that raises it most."""
        return next((word.word for word in self.words if word.chosen), None)

    @property
    def top(self) -> float:
        """The highest activation that is shown, > 0: the length of a full bar."""
        levels = [one.activation for one in self.words]
        levels += [
            level for i in self.images for level in (i.activation_before, i.activation_after)
        ]
        return max((level for level in levels if level is not None and level > 0), default=1.0)


@dataclass(frozen=True)
class Rejected:
    """A file that is not part of the run, and why."""

    path: str
    reason: str
    collection: str


@dataclass(frozen=True)
class ClassSummary:
    """One class of the main collection: how many images, how many of them rightly classified."""

    class_index: int
    class_name: str
    images: int
    right: int | None


@dataclass(frozen=True)
class RunData:
    """Everything that is shown of a run."""

    uri: str
    manifest: Mapping[str, Any]
    classes: tuple[ClassSummary, ...] = ()
    images: Mapping[str, int] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    counterfactuals: tuple[Counterfactual, ...] = ()
    disagreements: tuple[Disagreement, ...] = ()
    neurons: tuple[Neuron, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    stages: frozenset[str] = frozenset()

    @property
    def spec(self) -> Mapping[str, Any]:
        """The settings that the run was started with."""
        spec = self.manifest.get("spec")
        return spec if isinstance(spec, Mapping) else {}

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the run wants its reader to know."""
        return tuple(str(warning) for warning in self.manifest.get("warnings") or ())


def load_run(folder: str) -> RunData:
    """Read a run folder for showing; UsageError where there is no run."""
    run = Lineage(Run.open(folder))
    stages = frozenset(name for name in TABLES if run.has(name))
    classes, images = load_classes(run)
    names = {summary.class_index: summary.class_name for summary in classes}
    return RunData(
        uri=folder,
        manifest=whole_record(run.records),
        classes=classes,
        images=images,
        findings=load_findings(run),
        counterfactuals=load_counterfactuals(run, names),
        disagreements=load_disagreements(run),
        neurons=load_neurons(run),
        rejected=load_rejected(run),
        stages=stages,
    )


def whole_record(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """run.json with what the runs before it add: their settings, timings and warnings."""
    spec: dict[str, Any] = {}
    timings: dict[str, Any] = {}
    warnings: list[Any] = []
    for record in records:
        spec = {**record.get("spec", {}), **{k: v for k, v in spec.items() if v is not None}}
        timings = {**record.get("timings", {}), **timings}
        warnings = [*record.get("warnings", ()), *warnings]
    return {**records[0], "spec": spec, "timings": timings, "warnings": warnings}


def load_classes(run: Lineage) -> tuple[tuple[ClassSummary, ...], dict[str, int]]:
    """The classes of the main collection, and how many images each collection has."""
    columns = ("label", "class_name", "collection", "top5_classes")
    table = read(run, "images", columns)
    if table is None:
        return (), {}
    names: dict[int, str] = {}
    seen: dict[int, int] = {}
    right: dict[int, int] = {}
    collections: dict[str, int] = {}
    empty = [None] * table.num_rows
    listed = [table[c].to_pylist() if c in table.column_names else empty for c in columns]
    for label, name, collection, top5 in zip(*listed, strict=True):
        collection = collection or "main"
        collections[collection] = collections.get(collection, 0) + 1
        if collection != "main" or label is None or label < 0:
            continue
        names[label] = name or str(label)
        seen[label] = seen.get(label, 0) + 1
        if top5:
            right[label] = right.get(label, 0) + (top5[0] == label)
    summaries = (ClassSummary(k, names[k], seen[k], right.get(k)) for k in sorted(seen))
    return tuple(summaries), collections


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


def load_counterfactuals(
    run: Lineage, class_names: Mapping[int, str]
) -> tuple[Counterfactual, ...]:
    """The counterfactuals; classes by name where the run knows it, else by number."""
    return tuple(
        Counterfactual(
            image_id=str(row.get("image_id")),
            source=_class_name(row, "source", class_names),
            target=_class_name(row, "target", class_names),
            before=row.get("before"),
            after=row.get("after"),
            difference=row.get("difference"),
            p_source_before=number(row.get("p_source_before")),
            p_source_after=number(row.get("p_source_after")),
            p_target_before=number(row.get("p_target_before")),
            p_target_after=number(row.get("p_target_after")),
            l1=number(row.get("l1")),
            l2=number(row.get("l2")),
            flipped=bool(row.get("flipped")),
            failed=row.get("failed") or None,
            losses=_losses(row),
            against={
                name.removeprefix("against_"): value
                for name, raw in row.items()
                if name.startswith("against_") and (value := number(raw)) is not None
            },
            way=_way(row),
        )
        for row in rows_of(run, "counterfactuals")
    )


def load_disagreements(run: Lineage) -> tuple[Disagreement, ...]:
    """The images on which the two classifiers disagree."""
    return tuple(
        Disagreement(
            class_name=str(row.get("class_name") or row.get("class_index")),
            prompt=str(row.get("prompt") or ""),
            seed=row.get("seed"),
            image=row.get("image"),
            start_image=row.get("start_image"),
            p_a=number(row.get("p_a")),
            p_b=number(row.get("p_b")),
            p_a_start=number(row.get("p_a_start")),
            p_b_start=number(row.get("p_b_start")),
            losses=_losses(row),
            failed=row.get("failed") or None,
            a=row.get("classifier_a"),
            b=row.get("classifier_b"),
            way=_way(row),
        )
        for row in rows_of(run, "disagreements")
    )


def load_neurons(run: Lineage) -> tuple[Neuron, ...]:
    """The neurons, in the order of the findings that they carry, then by number."""
    words: dict[int, list[dict[str, Any]]] = {}
    for row in rows_of(run, "neuron_words"):
        words.setdefault(int(row["neuron"]), []).append(row)
    images: dict[int, list[dict[str, Any]]] = {}
    for row in rows_of(run, "neurons"):
        images.setdefault(int(row["neuron"]), []).append(row)
    found = []
    for index in sorted({*words, *images}):
        of_words, of_images = words.get(index, []), images.get(index, [])
        head = (of_words or of_images)[0]
        scale = of_images[0] if of_images else {}
        found.append(
            Neuron(
                index=index,
                class_name=str(head.get("class_name") or head.get("class_index")),
                rank=head.get("rank"),
                share=number(head.get("share")),
                mean=number(scale.get("mean")),
                deviation=number(scale.get("deviation")),
                words=tuple(
                    NeuronWord(
                        word=str(row.get("word") or ""),
                        prompt=str(row.get("prompt") or ""),
                        images=tuple(row.get("images") or ()),
                        activation=number(row.get("activation")),
                        chosen=bool(row.get("chosen")),
                    )
                    for row in of_words
                ),
                images=tuple(_neuron_image(row) for row in of_images),
            )
        )
    return tuple(sorted(found, key=lambda one: (one.rank is None, one.rank or 0, one.index)))


def _neuron_image(row: Mapping[str, Any]) -> NeuronImage:
    return NeuronImage(
        kind=str(row.get("kind")),
        image_id=row.get("image_id"),
        prompt=str(row.get("prompt") or ""),
        before=row.get("before"),
        after=row.get("after"),
        difference=row.get("difference"),
        activation_before=number(row.get("activation_before")),
        activation_after=number(row.get("activation_after")),
        failed=row.get("failed") or None,
        way=_way(row),
    )


def _way(row: Mapping[str, Any]) -> Way:
    images, steps = row.get("trajectory") or (), row.get("trajectory_steps") or ()
    return Way(
        trajectory=tuple(zip(steps, images, strict=False)),
        opinions=tuple(
            Opinion(
                str(one.get("classifier")),
                str(one.get("class_name")),
                number(one.get("before")),
                number(one.get("after")),
            )
            for one in row.get("probabilities") or ()
        ),
        closest=tuple(
            Near(str(one.get("image_id")), number(one.get("distance")), one.get("thumb"))
            for one in row.get("closest") or ()
        ),
        mask=row.get("mask"),
        psnr=number(row.get("inversion_psnr")),
    )


def load_rejected(run: Lineage) -> tuple[Rejected, ...]:
    """The files that were left out."""
    return tuple(
        Rejected(
            path=str(row.get("path") or row.get("id")),
            reason=str(row.get("reason") or "no reason given"),
            collection=str(row.get("collection") or "main"),
        )
        for row in rows_of(run, "rejected")
    )


def number(value: Any) -> float | None:
    """The value as a float; None where it is missing, not a number, or not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


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
        losses=_losses(row),
        failed=row.get("failed") or None,
        way=_way(row),
    )


def _key(row: Mapping[str, Any]) -> tuple[int, int]:
    return int(row["class_index"]), int(row["component"])


def _losses(row: Mapping[str, Any]) -> tuple[float, ...]:
    return tuple(value for raw in row.get("losses") or () if (value := number(raw)) is not None)


def _words(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(word.strip() for word in value.split(",") if word.strip())
    return tuple(str(word) for word in value or ())


def _class_name(row: Mapping[str, Any], side: str, class_names: Mapping[int, str]) -> str:
    name = row.get(f"{side}_name")
    index = row.get(f"{side}_class")
    return str(name or (class_names.get(index) if index is not None else None) or index)
