"""Searching a run's images: what activates a component or a neuron, what lies near an image."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from whylens import classifiers
from whylens.errors import UsageError
from whylens.jobs.findings.stored import components_of
from whylens.jobs.images.embedded import IMAGES, shown_classes
from whylens.jobs.images.index import index_of
from whylens.neural_pca import Found, component_exemplars, neighbours, neuron_exemplars
from whylens.neural_pca.index import Searchable
from whylens.runs import Run
from whylens.runs.lineage import Lineage
from whylens.settings import Settings

if TYPE_CHECKING:
    from whylens.classifiers import Classifier

SHOWN = ("id", "label", "class_name", "p_label", "top5_classes", "top5_probabilities", "collection")


class Question(Settings):
    """One of a component of a class, a neuron, an image, a text; and which images may answer.

    Raises
    ------
    UsageError
        If it is none of the four or several, or lacks the class that it speaks of.
    """

    class_name: str | None = Field(None, description="A class, name or number.")
    component: int | None = Field(None, description="Images that activate it most.")
    neuron: int | None = Field(None, description="Images that activate it most.")
    like: str | None = Field(None, description="Id of an image: its neighbours.")
    text: str | None = Field(
        None, description="What shows it, of all that the names job named: its run is asked."
    )
    of_class: bool = Field(False, description="Neighbours in the class's alphas, not in phi.")
    among_class: bool = Field(False, description="Only the class's images.")
    without_class: bool = Field(False, description="Only images that do not show the class.")
    collection: str = Field("main", description="main, or second.")
    count: int = Field(10, ge=1, description="How many images.")

    @model_validator(mode="after")
    def _answerable(self) -> Self:
        others = sum(one is not None for one in (self.component, self.neuron, self.like))
        if self.text is not None:
            if others or self.class_name is not None:
                raise UsageError(
                    "--text asks by itself: leave --class, --component and the like out"
                )
            return self
        if others != 1:
            raise UsageError(
                "ask for one of --class X --component L, --neuron N, and --like IMAGE_ID"
            )
        if self.of_class and self.like is None:
            raise UsageError(
                "--of-class says in which space an image's neighbours are: with --like"
            )
        if self.among_class and self.without_class:
            raise UsageError("--among-class and --without-class leave no image: give one of them")
        needs = {
            "--component": self.component is not None,
            "--of-class": self.of_class,
            "--among-class": self.among_class,
            "--without-class": self.without_class,
        }
        if self.class_name is None and any(needs.values()):
            named = next(name for name, given in needs.items() if given)
            raise UsageError(f"{named} needs the class that is meant: --class NAME")
        return self


@dataclass(frozen=True)
class Image:
    """One answer.

    `value` is alpha, an activation, or a distance. `p_label` is None without a label; `p_class` if
    no class is asked for, or it is none of the image's top five.
    """

    id: str
    value: float
    label: str | None
    p_label: float | None
    predicted: str
    p_predicted: float
    p_class: float | None


@dataclass(frozen=True)
class Answer:
    """The images, the best first; what was asked, and what their values are."""

    title: str
    measure: str
    class_name: str | None
    images: tuple[Image, ...]

    def record(self) -> dict[str, Any]:
        """The answer as plain values, for JSON."""
        return asdict(self)


def search(folder: str, question: Question) -> Answer:
    """Answer from the run's index, or from one made on the spot where no index job ran.

    Raises
    ------
    UsageError
        If the run or its sources lack what is asked for: the class, its components, the neuron, the
        image; or the index is another classifier's.
    """
    lineage = Lineage(Run.open(folder))
    classifier = classifiers.load_classifier(str(lineage.setting("classifier")))
    k = None if question.class_name is None else classifier.class_index(question.class_name)
    components = None
    if k is not None and (question.component is not None or question.of_class):
        components = components_of(lineage, k, classifier)
    index = index_of(lineage, question.collection, classifier)
    images = lineage.table(IMAGES).read(SHOWN)
    images = images.filter(pc.equal(images["collection"], question.collection))
    limits = _limits(index, images, k, question)
    name = None if k is None else classifier.class_names[k]
    if question.component is not None and components is not None:
        found = component_exemplars(index, components, question.component, question.count, **limits)
        title, measure = f"component {question.component} of {name}", "alpha"
    elif question.neuron is not None:
        found = neuron_exemplars(index, question.neuron, question.count, **limits)
        title, measure = f"neuron {question.neuron}", "activation"
    else:
        like = str(question.like)
        found = neighbours(index, like, question.count, components=components, **limits)
        space = f"the alphas of {name}" if components is not None else "phi"
        title, measure = f"near {like} in {space}", "distance"
    return Answer(title, measure, name, tuple(_answers(found, images, classifier, k)))


def _limits(
    index: Searchable, images: pa.Table, k: int | None, question: Question
) -> dict[str, np.ndarray]:
    """The rows of the class's images, as `among` or `without`; predictions where labels lack."""
    if not (question.among_class or question.without_class):
        return {}
    ids = images["id"].filter(pa.array(shown_classes(images) == k)).to_pylist()
    rows = np.asarray([index.row_of(one) for one in ids], dtype=np.int64)
    return {"among" if question.among_class else "without": rows}


def _answers(found: Found, images: pa.Table, classifier: Classifier, k: int | None) -> list[Image]:
    places = pc.index_in(pa.array(found.ids, pa.string()), images["id"].combine_chunks())
    names = classifier.class_names
    answers = []
    for value, row in zip(found.values, images.take(places).to_pylist(), strict=True):
        top = dict(zip(row["top5_classes"], row["top5_probabilities"], strict=True))
        label = row["label"]
        predicted, p_predicted = next(iter(top.items()))
        p_class = None if k is None else row["p_label"] if label == k else top.get(k)
        answers.append(
            Image(
                row["id"],
                float(value),
                names[label] if label >= 0 else row["class_name"],
                row["p_label"] if label >= 0 else None,
                names[predicted],
                p_predicted,
                p_class,
            )
        )
    return answers
