"""The names job: what components, neurons, errors and slices show, in words of a vocabulary.

A CLIP model embeds their images and each word; `whylens.neural_pca.naming` ranks the words. All are
named beside other images of their collection, a component by the images that were mined for it: its
exemplars are of the class, most of whose other images may show the same; a neuron by the images
that activate it most. What the model made of all of them is kept, so that any text can be asked
for later (`jobs.slices.by_text`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from whylens.cluster.placement import Resources
from whylens.errors import UsageError, WhylensError
from whylens.jobs.columns import columns, columns_of
from whylens.jobs.images.embedded import IMAGES, mined_collection
from whylens.jobs.images.index import index_of
from whylens.jobs.images.rejected import REJECTED, ReadableImages, write_unreadable
from whylens.jobs.registry import Job
from whylens.jobs.report.tables import grouped
from whylens.jobs.slices.shown import collection_of, seen_by
from whylens.jobs.spec import JobSpec
from whylens.jobs.stage import Batch, drop_others, in_batches, work_through
from whylens.jobs.words import plain_name
from whylens.neural_pca import neuron_exemplars
from whylens.neural_pca.naming import names, shared
from whylens.neural_pca.naming import unit as normalised
from whylens.runs import Run
from whylens.runs.lineage import Lineage
from whylens.settings import Settings

if TYPE_CHECKING:
    from whylens.classifiers import Classifier
    from whylens.classifiers.zero_shot import ZeroShotClassifier

TABLE, PICTURES = "names", "pictures"
SCHEMA = pa.schema(
    [
        *columns(pa.string(), "kind", "class_name"),
        *columns(pa.int32(), "class_index", "number", "images"),
        ("words", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float64())),
        # What its images share, and what the texts of the vocabulary do: [D] each.
        *columns(pa.list_(pa.float32()), "direction", "common"),
    ]
)
# Every image that a thing is named by.
PICTURES_SCHEMA = pa.schema(
    [*columns(pa.string(), "collection", "image_id"), ("embedding", pa.list_(pa.float32()))]
)
COMPONENT, NEURON, ERROR, SLICE = "component", "neuron", "systematic error", "slice"
OF_CLASS = ("class_index", "class_name")
# Captions in which a word is read, at most.
CONTEXTS = 32


class NameSettings(Settings):
    """How things are named."""

    vocabulary: str | None = Field(
        None,
        description="A text file, one word or phrase a line; none: the words of the run's captions "
        "in captions that hold them, or the classes' names where there is none.",
    )
    templates: list[Annotated[str, Field(pattern=r"\{word\}")]] = Field(
        ["a photo of {word}"],
        min_length=1,
        description="What the model reads of a word of the file: the mean of these.",
    )
    top: int = Field(3, ge=1, description="Words kept.")
    images: int = Field(32, ge=1, description="Images of each thing that are looked at, at most.")
    others: int = Field(200, ge=1, description="Images beside which they are named, at most.")


class NamesSpec(JobSpec):
    """Names by a CLIP model."""

    source: str = Field(description="Run folder of an exemplars, confirm, errors or other job.")
    model: str = Field(description="open_clip:MODEL/PRETRAINED, or planted:clip.")
    names: NameSettings = Field(NameSettings(), description="How things are named.")


@dataclass(frozen=True)
class Thing:
    """What is to be named: images of a collection, beside others of it."""

    kind: str
    class_index: int
    class_name: str
    number: int
    collection: str
    image_ids: tuple[str, ...]


def things(lineage: Lineage, count: int, classifier: Classifier) -> list[Thing]:
    """All that a run and its sources hold images of: components, neurons, errors, slices."""
    found, pool = [], mined_collection(lineage)
    ranks = {(r["class_index"], r["component"]): r for r in lineage.rows("findings")}
    mined = lineage.rows("mined", ("class_index", "component", "place", "image_id"))
    for key, rows in grouped(mined, lambda r: (r["class_index"], r["component"])).items():
        ids = [row["image_id"] for row in sorted(rows, key=lambda row: row["place"])]
        name = ranks.get(key, {}).get("class_name", str(key[0]))
        found.append(Thing(COMPONENT, key[0], name, key[1], pool, tuple(ids[:count])))
    told = {row["neuron"]: row for row in lineage.rows("neuron_words", ("neuron", *OF_CLASS))}
    index = index_of(lineage, "main", classifier) if told else None
    for neuron, row in sorted(told.items()):
        assert index is not None
        most = tuple(neuron_exemplars(index, neuron, count).ids)
        found.append(Thing(NEURON, row["class_index"], row["class_name"], neuron, "main", most))
    confirmed = [row for row in lineage.rows("confirmed") if row["error"] is not None]
    for key, rows in grouped(confirmed, lambda r: (r["class_index"], r["error"])).items():
        ids = [row["image_id"] for row in sorted(rows, key=lambda row: -row["p"])]
        name = rows[0]["class_name"]
        found.append(Thing(ERROR, key[0], name, key[1], pool, tuple(ids[:count])))
    tag = next((r["spec"]["errors"]["collection"] for r in lineage.records
                if r["job"] == "errors"), "main")  # fmt: skip
    for row in lineage.rows("slices", (*OF_CLASS, "slice", "image_ids")):
        found.append(
            Thing(SLICE, row["class_index"], row["class_name"], row["slice"], tag,
                  tuple(row["image_ids"][:count]))
        )  # fmt: skip
    return found


def vocabulary(
    lineage: Lineage, settings: NameSettings, class_names: Sequence[str]
) -> dict[str, list[str]]:
    """The words, and the texts in which each is read.

    A word of the run's captions is read in captions that hold it: a model that was trained on
    captions knows parts of scenes better there than alone.

    Raises
    ------
    UsageError
        If the file can't be read or there are fewer than two words.
    """
    found: dict[str, list[str]] = {}
    if settings.vocabulary is None:
        captions = pc.unique(pc.fill_null(lineage.table(IMAGES).read(["caption"])["caption"], ""))
        texts = captions.to_pylist()
        for row in np.random.default_rng(0).permutation(len(texts)):
            for word in sorted({one.strip(".,") for one in texts[row].casefold().split()}):
                if len(word) > 2 and len(found.setdefault(word, [])) < CONTEXTS:
                    found[word].append(texts[row])
        words = [] if found else list(map(plain_name, class_names))
    else:
        try:
            words = Path(settings.vocabulary).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"the vocabulary {settings.vocabulary} can't be read: {error}"
            ) from None
    for word in filter(None, (one.strip() for one in words)):
        found[word] = [one.replace("{word}", word) for one in settings.templates]
    if len(found) < 2:
        raise UsageError("a vocabulary has at least two words: name a file with one a line")
    return found


def loaded(model: str, device: str = "cpu") -> ZeroShotClassifier:
    """The model by name.

    Raises
    ------
    UsageError
        If it has no text tower.
    """
    from whylens.classifiers import load_classifier
    from whylens.classifiers.zero_shot import ZeroShotClassifier

    found = load_classifier(model, device)
    if not isinstance(found, ZeroShotClassifier):
        raise UsageError(f"{model} reads no words: name open_clip:MODEL/PRETRAINED or planted:clip")
    return found


def name_all(
    run: Run, lineage: Lineage, model: str, settings: NameSettings, placement: Resources
) -> None:
    """The stage: what is missing of the table names.

    Raises
    ------
    UsageError
        If there is nothing to name, or the vocabulary can't be read.
    """
    from whylens.classifiers import load_classifier

    classifier = load_classifier(str(lineage.setting("classifier")))
    tasks = things(lineage, settings.images, classifier)
    if not tasks:
        raise UsageError(
            "nothing to name: the run holds no mined images, neurons, systematic errors or slices "
            "(jobs exemplars, neurons, confirm, errors)"
        )
    words = vocabulary(lineage, settings, classifier.class_names)
    arguments = (run, lineage, model, settings, words, placement.device)
    units = in_batches(tasks, 8, settings, words)
    drop_others(run, units, TABLE, REJECTED, spec=settings)
    work_through(run, TABLE, units, Namer, arguments, placement)


class Namer:
    """A worker: holds the CLIP model and the vocabulary, names some things a call."""

    def __init__(
        self,
        run: Run,
        lineage: Lineage,
        model: str,
        settings: NameSettings,
        words: dict[str, list[str]],
        device: str,
    ) -> None:
        """Load the model, embed the vocabulary, open the collections."""
        self.run, self.settings, self.words = run, settings, list(words)
        self.model = loaded(model, device)
        self.texts = np.stack(
            [
                self.model.embed_texts(texts).float().mean(0).cpu().numpy()
                for texts in words.values()
            ]
        )
        self.common = normalised(self.texts).mean(0)
        self.images = {
            tag: ReadableImages(collection_of(lineage, tag), tag)
            for tag in ("main", "second")
            if tag == "main" or lineage.setting("second")
        }
        seen = lineage.table(IMAGES).read(["id", "collection"])
        self.ids = {
            tag: seen.filter(pc.equal(seen["collection"], tag))["id"].to_pylist()
            for tag in self.images
        }
        self._beside: dict[str, np.ndarray] = {}

    def __call__(self, unit: Batch[Thing]) -> int:
        """Name the unit's things, write their words; how many."""
        rows, pictures = [], []
        for thing in unit.tasks:
            seen = self._embedded(thing.collection, thing.image_ids)
            if not seen:
                continue
            shown, others = np.stack(list(seen.values())), self._others(thing.collection)
            pictures += [
                {"collection": thing.collection, "image_id": name, "embedding": row}
                for name, row in seen.items()
            ]
            said = names(shown, others, self.texts, self.words, top=self.settings.top)
            rows.append(
                {
                    **columns_of(thing, SCHEMA),
                    "images": len(shown),
                    "words": [word for word, _ in said],
                    "scores": [score for _, score in said],
                    "direction": shared(shown, others),
                    "common": self.common,
                }
            )
        write_unreadable(self.run, unit.name, *self.images.values())
        # Names last: they say that the unit is done.
        table = pa.Table.from_pylist(pictures, schema=PICTURES_SCHEMA)
        self.run.table(PICTURES).write(unit.name, table)
        self.run.table(TABLE).write(unit.name, pa.Table.from_pylist(rows, schema=SCHEMA))
        return len(rows)

    def _others(self, tag: str) -> np.ndarray:
        if tag not in self._beside:
            ids = self.ids[tag]
            some = np.random.default_rng(0).permutation(len(ids))[: self.settings.others]
            seen = self._embedded(tag, [ids[row] for row in some])
            if not seen:
                raise WhylensError(f"none of {len(some)} images of the collection can be read")
            self._beside[tag] = np.stack(list(seen.values()))
        return self._beside[tag]

    def _embedded(self, tag: str, ids: Sequence[str]) -> dict[str, np.ndarray]:
        """Embeddings [D] of the images that can be read, by id."""
        return seen_by(self.model, self.images[tag], ids, self.model.features)


def run(spec: NamesSpec) -> Run:
    """Name what a run found."""
    loaded(spec.model)
    with JOB.on_workers(spec) as (run, lineage, placement):
        name_all(run, lineage, spec.model, spec.names, placement)
    return run


JOB = Job(
    name="names",
    help="What is found, in words of a vocabulary.",
    spec=NamesSpec,
    run=run,
    tables=(REJECTED, PICTURES, TABLE),
    show="whylens.jobs.slices.terminal:show_names",
    part="whylens.jobs.report.parts.names:NAMES",
)
