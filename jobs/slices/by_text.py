"""Searching what was named by any text: "water" among components, neurons, errors and images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from whylens.errors import UsageError
from whylens.jobs.people.search import Answer as Images
from whylens.jobs.people.search import Question
from whylens.jobs.people.search import search as search_images
from whylens.jobs.slices.names import PICTURES, TABLE, loaded
from whylens.neural_pca.naming import alike, unit
from whylens.runs import Run
from whylens.runs.lineage import Lineage

if TYPE_CHECKING:
    from whylens.classifiers.zero_shot import ZeroShotClassifier


@dataclass(frozen=True)
class Thing:
    """What a run found of a class; how alike what its images share is to the text, in [-1, 1]."""

    kind: str
    class_name: str
    number: int
    score: float
    words: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """An image; how alike what sets it apart from the others is to the text, in [-1, 1]."""

    collection: str
    id: str
    score: float


@dataclass(frozen=True)
class Answer:
    """What a text finds by a CLIP model, the most alike first."""

    text: str
    model: str
    things: tuple[Thing, ...]
    images: tuple[Picture, ...]

    def record(self) -> dict[str, Any]:
        """The answer as plain values, for JSON."""
        return asdict(self)


class SearchSpec(Question):
    """What `whylens search` takes."""

    run: str = Field(description="Run folder; its sources are looked in too.")


def run(spec: SearchSpec) -> Answer | Images:
    """Look for what is asked for: by a text in what was named, else in the run's images."""
    if spec.text is None:
        return search_images(spec.run, spec)
    return find(spec.run, spec.text, spec.count)


def find(folder: str, text: str, count: int = 10) -> Answer:
    """As `search`, of a run's folder.

    Raises
    ------
    UsageError
        If there is no text, or neither the run nor its sources named anything.
    """
    if not text.strip():
        raise UsageError("--text is empty: say what to look for")
    lineage = Lineage(Run.open(folder))
    if (name := model_of(lineage)) is None:
        raise UsageError(
            f"nothing in {folder} was named: run whylens names --source {folder} --model MODEL, "
            "and search its run"
        )
    return search(lineage, loaded(name), text, count)


def model_of(lineage: Lineage) -> str | None:
    """The model by which a run, or the nearest of its sources, named things; None: nothing was."""
    record = _record(lineage)
    if record is None or not (lineage.has(TABLE) and lineage.has(PICTURES)):
        return None
    return str(record["spec"]["model"])


def search(lineage: Lineage, model: ZeroShotClassifier, text: str, count: int) -> Answer:
    """Look for a text among what the names job named, and the images by which it did.

    `model` is the one that `model_of` names.
    """
    record = _record(lineage)
    assert record is not None  # or there would be no model
    import torch

    read = [one.replace("{word}", text) for one in record["spec"]["names"]["templates"]]
    with torch.inference_mode():
        said = model.embed_texts(read).float().mean(0).cpu().numpy()[None]
    rows = lineage.rows(TABLE)
    common = np.asarray(rows[0]["common"], np.float64)
    scores = alike(said, common, np.asarray([row["direction"] for row in rows]))[0]
    things = [
        Thing(row["kind"], row["class_name"], row["number"], float(score), tuple(row["words"]))
        for row, score in zip(rows, scores, strict=True)
    ]
    return Answer(
        text,
        str(record["spec"]["model"]),
        tuple(sorted(things, key=lambda one: -one.score)[:count]),
        tuple(_pictures(lineage, said, common, count)),
    )


def _record(lineage: Lineage) -> Mapping[str, Any] | None:
    return next((one for one in lineage.records if one["job"] == TABLE), None)


def _pictures(lineage: Lineage, said: np.ndarray, common: np.ndarray, count: int) -> list[Picture]:
    """The images that are most alike, each once; of all of them what they share counts for none."""
    rows = {
        (row["collection"], row["image_id"]): row["embedding"] for row in lineage.rows(PICTURES)
    }
    embedded = unit(np.asarray(list(rows.values())))
    scores = alike(said, common, unit(embedded - embedded.mean(0)))[0]
    order = np.argsort(-scores, kind="stable")[:count]
    keys = list(rows)
    return [Picture(keys[row][0], keys[row][1], float(scores[row])) for row in order]
