"""`whylens explain`: the decision on one image as the contributions of a class's components.

    f_k(x) = (<1, mean_k> + b_k) + sum_l alpha_l(x)

over all components: what the kept ones leave is shown as one rest, so that the bars always add up
to the logit. What a run found or people labelled as spurious is marked, and taken away as SpuFix
does: f_k <- f_k - sum over spurious l of max(alpha_l, 0), for every class that has any.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from whylens import classifiers
from whylens.errors import UsageError
from whylens.images import RejectedImageError
from whylens.images.decoding import decode
from whylens.images.tensors import to_png, to_tensor
from whylens.jobs.findings.stored import COMPONENTS, components_of
from whylens.jobs.images.embedded import IMAGES
from whylens.jobs.people.evidence import class_alphas, strongest
from whylens.jobs.people.explanation import ClassChange, Contribution, Exemplar, Explanation
from whylens.jobs.people.explanation_page import render
from whylens.jobs.people.standing import Knowledge
from whylens.jobs.people.waterfall import figure
from whylens.jobs.words import listed
from whylens.neural_pca import ClassComponents, spufix
from whylens.runs import OpenedRun
from whylens.runs.lineage import Lineage
from whylens.runs.storage import Storage
from whylens.settings import Settings

if TYPE_CHECKING:
    from whylens.classifiers import Classifier

# Classes whose probability is shown before and after SpuFix.
MOST_CLASSES = 4


class ExplainSpec(Settings):
    """What `whylens explain` takes."""

    image: str = Field(description="Image file.")
    run: str = Field(description="Run folder of an investigate or components job.")
    class_name: str | None = Field(None, description="Class to explain; the predicted one if none.")
    top: int = Field(8, ge=1, description="Components shown, by the size of their contribution.")
    exemplars: int = Field(4, ge=0, description="Images of the class shown beside a component.")
    out: str | None = Field(
        None, description="Folder to write to; RUN/explained/<image> if none is given."
    )


def run(spec: ExplainSpec) -> Explanation:
    """Explain the image and write explain.html, waterfall.png and explain.json.

    Raises
    ------
    UsageError
        If the image can't be read, the run has no components (or none of the class), or its
        components are another classifier's.
    """
    folder = spec.out or f"{spec.run.rstrip('/')}/explained/{Path(spec.image).stem}"
    found = replace(explain(spec), folder=folder)
    storage = Storage(folder)
    storage.write("waterfall.png", figure(found))
    storage.write("explain.json", (json.dumps(found.record(), indent=2) + "\n").encode())
    storage.write("explain.html", render(found).encode())
    return found


def explain(spec: ExplainSpec) -> Explanation:
    """The decision on one image, and what SpuFix would change; the errors of `run`."""
    pixels = _read(spec.image)
    run = OpenedRun(spec.run)
    if not run.has(COMPONENTS):
        raise UsageError(
            f"the run {spec.run} has no components: name a run of investigate, or of the "
            "components job"
        )
    classifier = classifiers.load_classifier(str(run.setting("classifier")))

    def shown(found: ClassComponents, order: np.ndarray) -> Sequence[tuple[Exemplar, ...]]:
        if not (spec.exemplars and run.has(IMAGES)):
            return [()] * len(order)
        return strongest(run, class_alphas(run, found.class_index, None), order, spec.exemplars)

    return decision(
        run, classifier, pixels, spec.image, shown, class_name=spec.class_name, top=spec.top
    )


def decision(
    lineage: Lineage,
    classifier: Classifier,
    pixels: np.ndarray,
    image: str,
    exemplars: Callable[[ClassComponents, np.ndarray], Sequence[tuple[Exemplar, ...]]],
    *,
    phi: np.ndarray | None = None,
    class_name: str | None = None,
    top: int = 8,
) -> Explanation:
    """The decision on an image [H, W, 3] that is called `image`, and what SpuFix would change.

    exemplars: of a class's components and the numbers of some, the images that show each
    phi: the image's features [D] where they are known; else the classifier is asked

    Raises
    ------
    UsageError
        If the run has no components of the class, or they are another classifier's.
    """
    import torch

    from whylens.classifiers.heatmap import component_heatmap, overlay

    if phi is None:
        phi = features_of(classifier, pixels)
    weight, bias = classifier.head.arrays()
    logits = weight @ phi + bias
    predicted = int(logits.argmax())
    k = predicted if class_name is None else classifier.class_index(class_name)
    known = Knowledge(lineage)
    if k not in known.classes:
        which = "asked for" if class_name is not None else f"predicted for {image}"
        raise UsageError(_without_components(lineage, which, classifier, known, k))
    found = components_of(lineage, k, classifier)
    alphas = found.alphas(phi[None])[0]
    order = np.argsort(-np.abs(alphas), kind="stable")[:top]
    others = [components_of(lineage, other, classifier) for other in known.spurious if other != k]
    fixed = logits
    if known.spurious:
        fixed = spufix([found, *others], known.spurious).fix(phi[None], logits[None])[0]
    before, after = (classifier.activation(torch.from_numpy(f)).numpy() for f in (logits, fixed))
    picture = classifier.eval_transform.at(max(classifier.image_size, 224))(pixels)
    enlarged, directions = to_tensor(picture)[None], torch.from_numpy(found.directions[order])
    heats = [
        component_heatmap(classifier, enlarged, row)[0].cpu().numpy() for row in directions.float()
    ]
    return Explanation(
        image=image,
        picture=to_png(picture),
        run=lineage.runs[0].folder,
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
                to_png(overlay(picture, heat)),
                images,
            )
            for component, heat, images in zip(order, heats, exemplars(found, order), strict=True)
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


def features_of(classifier: Classifier, pixels: np.ndarray) -> np.ndarray:
    """phi [D] in double precision of an image [H, W, 3], as `embed` sees it."""
    import torch

    with torch.no_grad():
        features = classifier.features(to_tensor(classifier.eval_transform(pixels))[None])
    phi: np.ndarray = features[0].double().cpu().numpy()
    return phi


def _read(image: str) -> np.ndarray:
    try:
        return decode(Path(image).read_bytes())
    except OSError as error:
        raise UsageError(f"the image {image} can't be read: {error.strerror}") from error
    except RejectedImageError as error:
        raise UsageError(f"the image {image} can't be used: {error}") from error


def _without_components(
    lineage: Lineage, which: str, classifier: Classifier, known: Knowledge, k: int
) -> str:
    there = listed([classifier.class_names[c] for c in sorted(known.classes)], most=9)
    return (
        f"the class {classifier.class_names[k]!r}, {which}, has no components in "
        f"{lineage.runs[0].folder} (too few images of it there); classes with components: {there}. "
        "Name one with --class"
    )


def _most_changed(before: np.ndarray, after: np.ndarray, k: int) -> list[int]:
    """The class itself, then the likeliest before or after."""
    likely = np.argsort(-np.maximum(before, after), kind="stable")[:MOST_CLASSES].tolist()
    return [k, *(c for c in likely if c != k)][:MOST_CLASSES]
