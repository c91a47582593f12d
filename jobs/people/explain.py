"""`whylens explain`: the decision on one image as the contributions of a class's components.

    f_k(x) = (<1, mean_k> + b_k) + sum_l alpha_l(x)

over all components: what the kept ones leave is shown as one rest, so that the bars always add up
to the logit. What a run found or people labelled as spurious is marked, and taken away as SpuFix
does: f_k <- f_k - sum over spurious l of max(alpha_l, 0), for every class that has any.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from whylens.errors import UsageError
from whylens.jobs.findings.components import TABLE as COMPONENTS
from whylens.jobs.findings.components import components_of
from whylens.jobs.findings.exemplars import FINDINGS
from whylens.jobs.images.embedded import COLUMNS, collections_of, labels_used
from whylens.jobs.images.embedded import TABLE as IMAGES
from whylens.jobs.labelled import SPURIOUS, UNSURE, label_rows, verdicts
from whylens.jobs.lineage import Lineage
from whylens.jobs.words import plain_name
from whylens.runs import Run
from whylens.runs.storage import Storage

if TYPE_CHECKING:
    from whylens.classifiers import Classifier
    from whylens.neural_pca import ClassComponents

logger = logging.getLogger(__name__)

# Classes whose probability is shown before and after SpuFix.
MOST_CLASSES = 4


class ExplainSpec(BaseModel):
    """What `whylens explain` takes."""

    model_config = ConfigDict(extra="forbid")

    image: str = Field(description="Image file.")
    run: str = Field(description="Run folder of an investigate or components job.")
    class_name: str | None = Field(None, description="Class to explain; the predicted one if none.")
    top: int = Field(8, ge=1, description="Components shown, by the size of their contribution.")
    exemplars: int = Field(4, ge=0, description="Images of the class shown beside a component.")
    out: str | None = Field(
        None, description="Folder to write to; RUN/explained/<image> if none is given."
    )


@dataclass(frozen=True)
class Exemplar:
    """An image of the class that activates a component most."""

    image_id: str
    alpha: float
    thumb: bytes


@dataclass(frozen=True)
class Contribution:
    """A component's part in the decision.

    `standing` says what is known of it: "found spurious (finding 2)", "labelled spurious by ...";
    empty where nothing is. `removed` is what SpuFix takes away, max(alpha, 0) of a spurious one.
    """

    component: int
    alpha: float
    words: tuple[str, ...]
    standing: str
    spurious: bool
    heatmap: bytes
    exemplars: tuple[Exemplar, ...]

    @property
    def removed(self) -> float:
        return max(self.alpha, 0.0) if self.spurious else 0.0


@dataclass(frozen=True)
class ClassChange:
    """A class's probability before and after SpuFix."""

    class_name: str
    before: float
    after: float


@dataclass(frozen=True)
class Explanation:
    """The decision on one image.

    logit = constant + the contributions' alphas + rest; `fixed_logit` is that after SpuFix, over
    all components of the class; `others` counts the components that `rest` holds.
    """

    image: str
    picture: bytes
    run: str
    classifier: str
    class_name: str
    predicted: str
    class_index: int
    logit: float
    constant: float
    contributions: tuple[Contribution, ...]
    rest: float
    others: int
    fixed_logit: float
    fixed_prediction: str
    changes: tuple[ClassChange, ...]

    @property
    def repaired(self) -> bool:
        """Whether SpuFix changes any class's probability."""
        return any(change.before != change.after for change in self.changes)

    @property
    def removed(self) -> float:
        """What SpuFix takes from the class's logit."""
        return self.logit - self.fixed_logit

    def record(self) -> dict[str, Any]:
        """Everything but the pictures, for JSON."""
        return {
            "image": self.image,
            "run": self.run,
            "classifier": self.classifier,
            "class": self.class_name,
            "class_index": self.class_index,
            "predicted": self.predicted,
            "logit": self.logit,
            "constant": self.constant,
            "components": [
                {
                    "component": c.component,
                    "alpha": c.alpha,
                    "words": list(c.words),
                    "standing": c.standing,
                    "spurious": c.spurious,
                    "exemplars": [e.image_id for e in c.exemplars],
                }
                for c in self.contributions
            ],
            "rest": self.rest,
            "spufix": {
                "logit": self.fixed_logit,
                "removed": self.removed,
                "predicted": self.fixed_prediction,
                "probabilities": {
                    c.class_name: {"before": c.before, "after": c.after} for c in self.changes
                },
            },
        }


def run(spec: ExplainSpec) -> tuple[Explanation, str]:
    """Explain the image and write explain.html, waterfall.png and explain.json; and their folder.

    Raises
    ------
    UsageError
        If the image can't be read, the run has no components (or none of the class), or its
        components are another classifier's.
    """
    from whylens.jobs.people.waterfall import figure

    found = explain(spec)
    folder = spec.out or f"{spec.run.rstrip('/')}/explained/{Path(spec.image).stem}"
    storage = Storage(folder)
    storage.write("waterfall.png", figure(found))
    storage.write("explain.json", (json.dumps(found.record(), indent=2) + "\n").encode())
    storage.write("explain.html", render(found).encode())
    return found, folder


def render(found: Explanation) -> str:
    """The page as text, with nothing loaded from anywhere."""
    from whylens.jobs.people.waterfall import laid_out, signed
    from whylens.jobs.report.page import data_uri, environment, stylesheet

    return (
        environment()
        .get_template("explain.html.j2")
        .render(
            found=found,
            bars=laid_out(found),
            sentences=sentences(found),
            css=stylesheet("parts.css", "report.css", "explain.css"),
            raw=lambda content: data_uri(content, "image/png"),
            short=plain_name,
            signed=signed,
        )
    )


def sentences(found: Explanation) -> list[str]:
    """The decision in words."""
    from whylens.jobs.people.waterfall import signed
    from whylens.jobs.words import listed, percent

    name, predicted = plain_name(found.class_name), plain_name(found.predicted)
    mine = found.changes[0]
    if predicted != name:
        said = [f"{found.classifier} says {predicted}, and {name} with {percent(mine.before)}."]
    else:
        said = [f"{found.classifier} says {name}, with a probability of {percent(mine.before)}."]
    spurious = [c for c in found.contributions if c.removed > 0]
    if spurious:
        things = [", ".join(c.words[:1]) or f"component {c.component}" for c in spurious]
        amount = signed(sum(c.removed for c in spurious))
        said.append(
            f"What counts as spurious ({listed(list(dict.fromkeys(things)))}) adds {amount} to the "
            f"logit of {name}."
        )
    if not found.repaired:
        said.append("SpuFix would change nothing: no spurious component raises a class here.")
    elif (after := plain_name(found.fixed_prediction)) != predicted:
        said.append(f"After SpuFix the classifier would say {after}.")
    else:
        said.append(f"After SpuFix it would still say {after}; {name} gets {percent(mine.after)}.")
    return said


def explain(spec: ExplainSpec) -> Explanation:
    """The decision on one image, and what SpuFix would change; the errors of `run`."""
    from scipy.special import softmax

    from whylens.classifiers import load_classifier
    from whylens.neural_pca import spufix

    pixels = _read(spec.image)
    lineage = Lineage(Run.open(spec.run))
    if not lineage.has(COMPONENTS):
        raise UsageError(
            f"the run {spec.run} has no components: name a run of investigate, or of the "
            "components job"
        )
    classifier = load_classifier(str(lineage.setting("classifier")))
    phi = _features(classifier, pixels)
    logits = _logits(classifier, phi)
    predicted = int(logits.argmax())
    asked = spec.class_name
    k = predicted if asked is None else classifier.class_index(asked)
    rows = lineage.table(COMPONENTS).read(
        ["class_index", "component", "suspicious", "words", "same_as"]
    )
    known = Knowledge(rows.to_pylist(), _rows(lineage, FINDINGS), label_rows(lineage))
    if k not in known.classes:
        raise UsageError(_without_components(spec, classifier, known, k))
    found = components_of(lineage, k, classifier)
    alphas = found.alphas(phi[None])[0]
    order = np.argsort(-np.abs(alphas), kind="stable")[: spec.top]
    others = [components_of(lineage, other, classifier) for other in known.spurious if other != k]
    fixed = logits
    if known.spurious:
        fixed = spufix([found, *others], known.spurious).fix(phi[None], logits[None])[0]
    before, after = softmax(logits), softmax(fixed)
    heats = _heatmaps(classifier, pixels, found.directions[order])
    shown = _exemplars(lineage, found, order, spec.exemplars)
    return Explanation(
        image=spec.image,
        picture=_picture(classifier, pixels),
        run=spec.run,
        classifier=classifier.name,
        class_name=classifier.class_names[k],
        predicted=classifier.class_names[predicted],
        class_index=k,
        logit=float(logits[k]),
        constant=found.constant,
        contributions=tuple(
            Contribution(
                int(component),
                float(alphas[component]),
                *known.of(k, int(component)),
                heat,
                exemplars,
            )
            for component, heat, exemplars in zip(order, heats, shown, strict=True)
        ),
        rest=float(logits[k] - found.constant - alphas[order].sum()),
        others=len(alphas) - len(order),
        fixed_logit=float(fixed[k]),
        fixed_prediction=classifier.class_names[int(fixed.argmax())],
        changes=tuple(
            ClassChange(classifier.class_names[c], float(before[c]), float(after[c]))
            for c in _most_changed(before, after, k)
        ),
    )


class Knowledge:
    """What a run and its people know of components: the tables components, findings, labels.

    What people say counts for more than what was found; "unsure" changes nothing. `labels` are the
    rows by time.
    """

    def __init__(
        self,
        components: Sequence[Mapping[str, Any]],
        findings: Sequence[Mapping[str, Any]],
        labels: Sequence[Mapping[str, Any]],
    ) -> None:
        self._rows = {(r["class_index"], r["component"]): r for r in components}
        self._ranks = {(r["class_index"], r["component"]): r["rank"] for r in findings}
        self._verdicts = {key: v for key, v in verdicts(labels).items() if v != UNSURE}
        self._judges = {(r["class_index"], r["component"], r["label"]): r["who"] for r in labels}
        self.classes = {k for k, _ in self._rows}
        self.spurious: dict[int, list[int]] = {}
        for k, component in sorted(self._rows):
            if self.of(k, component)[2]:
                self.spurious.setdefault(k, []).append(component)

    def of(self, k: int, component: int) -> tuple[tuple[str, ...], str, bool]:
        """Its words, its standing, and whether it counts as spurious."""
        row = self._rows[k, component]
        words = tuple(row["words"] or ())
        if (verdict := self._verdicts.get((k, component))) is not None:
            judge = self._judges[k, component, verdict]
            return words, f"labelled {verdict} by {judge}", verdict == SPURIOUS
        if not row["suspicious"]:
            return words, "", False
        rank = self._ranks.get((k, component))
        if rank is not None:
            return words, f"found spurious (finding {rank})", True
        leader = self._ranks.get((k, row["same_as"]))
        same = f" (as finding {leader})" if leader is not None else ""
        return words, f"found spurious{same}", True


def _rows(lineage: Lineage, name: str) -> list[dict[str, Any]]:
    return lineage.table(name).read().to_pylist() if lineage.has(name) else []


def _read(image: str) -> np.ndarray:
    from whylens.images import RejectedImageError
    from whylens.images.decoding import decode

    try:
        return decode(Path(image).read_bytes())
    except OSError as error:
        raise UsageError(f"the image {image} can't be read: {error.strerror}") from error
    except RejectedImageError as error:
        raise UsageError(f"the image {image} can't be used: {error}") from error


def _without_components(spec: ExplainSpec, classifier: Classifier, known: Knowledge, k: int) -> str:
    there = [classifier.class_names[c] for c in sorted(known.classes)]
    listed = ", ".join(there[:8]) + (f" and {len(there) - 8} more" if len(there) > 8 else "")
    which = "asked for" if spec.class_name is not None else f"predicted for {spec.image}"
    return (
        f"the class {classifier.class_names[k]!r}, {which}, has no components in {spec.run} (too "
        f"few images of it there); classes with components: {listed}. Name one with --class"
    )


def _features(classifier: Classifier, pixels: np.ndarray) -> np.ndarray:
    """phi [D] of the image as `embed` sees it."""
    import torch

    from whylens.images.tensors import to_tensor

    with torch.no_grad():
        features = classifier.features(to_tensor(pixels, classifier.image_size)[None])
    return features[0].double().cpu().numpy()


def _logits(classifier: Classifier, phi: np.ndarray) -> np.ndarray:
    weight, bias = classifier.head.arrays()
    logits: np.ndarray = weight @ phi + bias
    return logits


def _most_changed(before: np.ndarray, after: np.ndarray, k: int) -> list[int]:
    """The class itself, then the likeliest before or after."""
    likely = np.argsort(-np.maximum(before, after), kind="stable")[:MOST_CLASSES].tolist()
    return [k, *(c for c in likely if c != k)][:MOST_CLASSES]


def _shown(classifier: Classifier, pixels: np.ndarray) -> np.ndarray:
    from whylens.images.tensors import square

    return square(pixels, max(classifier.image_size, 224))


def _picture(classifier: Classifier, pixels: np.ndarray) -> bytes:
    from whylens.images.tensors import to_png

    return to_png(_shown(classifier, pixels))


def _heatmaps(classifier: Classifier, pixels: np.ndarray, directions: np.ndarray) -> list[bytes]:
    """Where each component sits in the image, as PNGs."""
    import torch

    from whylens.images.tensors import to_png, to_tensor
    from whylens.neural_pca.heatmap import component_heatmap, overlay

    shown = _shown(classifier, pixels)
    image = to_tensor(shown)[None]
    rows = torch.from_numpy(directions).float()
    heats = [component_heatmap(classifier, image, row)[0].cpu().numpy() for row in rows]
    return [to_png(overlay(shown, heat)) for heat in heats]


def _exemplars(
    lineage: Lineage, found: ClassComponents, order: np.ndarray, count: int
) -> list[tuple[Exemplar, ...]]:
    """For each component of `order`, the class's images of largest alpha; one part in memory."""
    if count == 0 or not lineage.has(IMAGES):
        return [()] * len(order)
    table = lineage.table(IMAGES)
    best: list[list[tuple[float, str, str]]] = [[] for _ in order]
    for unit in table.units():
        seen = dict(collections_of(table.read_part(unit, COLUMNS))).get("main")
        if seen is None:
            continue
        rows = np.flatnonzero(labels_used(seen) == found.class_index)
        alphas = found.alphas(seen.features[rows])[:, order]
        for place, column in enumerate(alphas.T):
            near = np.argsort(-column, kind="stable")[:count]
            kept = [(float(column[i]), seen.ids[rows[i]], unit) for i in near]
            best[place] = sorted([*best[place], *kept], key=lambda b: (-b[0], b[1]))[:count]
    thumbs: dict[str, bytes] = {}
    for unit in {unit for kept in best for _, _, unit in kept}:
        part = table.read_part(unit, ("id", "thumb"))
        thumbs.update(zip(part["id"].to_pylist(), part["thumb"].to_pylist(), strict=True))
    return [tuple(Exemplar(name, alpha, thumbs[name]) for alpha, name, _ in kept) for kept in best]
