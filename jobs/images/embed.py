"""The embed job: one pass over a collection; features, probabilities and thumbnails to a table."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import Field

from whylens.classifiers.names import NAMES as CLASSIFIER_NAMES
from whylens.cluster.placement import Resources
from whylens.images import (
    ImageCollection,
    match_classes,
    near_classes,
    open_collection,
    units,
)
from whylens.jobs.checking import check_names
from whylens.jobs.images.embedded import IMAGES, THUMBNAILS
from whylens.jobs.images.embedding import Embedder, ImageUnit, decode
from whylens.jobs.images.listed import LISTINGS, as_begun
from whylens.jobs.images.rejected import REJECTED, write_rejected
from whylens.jobs.registry import Job
from whylens.jobs.spec import JobSpec
from whylens.jobs.stage import do_missing, note_arithmetic
from whylens.runs import Run

if TYPE_CHECKING:
    from whylens.classifiers import Description

# Ray Data takes 7 to 30 seconds to start, in which the pool does some thousand images.
STREAM_FROM = 20_000


class EmbedSpec(JobSpec):
    """One pass over image collections with a classifier."""

    images: str = Field(
        description="Collection to explain: a folder (flat, or one subfolder a class), .parquet, "
        "a WebDataset .tar, or planted:<split>?count=N&seed=S."
    )
    second: str | None = Field(
        None,
        description="Second collection, mined for images that trigger a class without showing it; "
        "without one, the other classes' images are mined.",
    )
    classifier: str = Field(description=f"{CLASSIFIER_NAMES}.")
    captioner: str | None = Field(
        None,
        description="A transformers image-to-text model, by Hub name or folder: says what images "
        "show that come without a caption. Findings are named, and prompts made, by captions.",
    )
    unit: int = Field(256, ge=1, description="Images a unit.")
    batch: int = Field(64, ge=1, description="Images that go through the classifier together.")
    stream_from: int = Field(
        STREAM_FROM, ge=1, description="Images from which on a collection goes through Ray Data."
    )


def embed(run: Run, spec: Any, placement: Resources) -> None:
    """Embed the collections of a spec (an EmbedSpec) into `run`.

    A collection of `stream_from` images or more goes through Ray Data, which decodes ahead of the
    workers on all cores; a smaller one is done by the session's pool before Ray Data would have
    started. Both make the same parts.
    """
    from whylens.classifiers import describe
    from whylens.cluster.pool import WorkerPool
    from whylens.cluster.stream import Both, Stream

    classifier = describe(spec.classifier)
    if remark := classifier.activation.remark:
        run.warn(f"{classifier.name} {remark}")
    decoded = partial(decode, transform=classifier.eval_transform)
    note_arithmetic(run, placement)
    tags = {"main": spec.images} | ({"second": spec.second} if spec.second else {})
    for tag, uri in tags.items():
        collection = as_begun(run, tag, open_collection(uri))
        classes = _classes(run, collection, classifier, tag)
        write_rejected(run, f"{tag}-listing", collection.rejected, tag)
        todo = [
            ImageUnit(f"{tag}-{name}", collection, part)
            for name, part in units(len(collection), spec.unit)
        ]
        arguments = (
            run, classes, tag, spec.classifier, placement.device, spec.batch, spec.captioner
        )  # fmt: skip
        if len(collection) >= spec.stream_from:
            stream = Stream[ImageUnit](decoded, Embedder, arguments, placement)
            do_missing(run, IMAGES, todo, stream.map)
        else:
            both = (partial(decoded, threads=2), Embedder, arguments)
            pool = WorkerPool[ImageUnit](Both, both, placement)
            do_missing(run, IMAGES, todo, pool.map)


def _classes(
    run: Run, collection: ImageCollection, classifier: Description, tag: str
) -> dict[str, int]:
    """The collection's class names that the classifier knows; a warning for the others."""
    names = collection.records.class_names()
    classes = match_classes(names, classifier.class_names)
    unknown = sorted(names - set(classes))
    if unknown and tag == "main":
        hints = []
        for name in unknown[:5]:
            near = near_classes(name, classifier.class_names)
            hints.append(f"{name!r}" + (f" (near: {', '.join(near)})" if near else ""))
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        run.warn(
            f"{classifier.name} knows {len(classes)} of the collection's {len(names)} class names; "
            f"not {', '.join(hints)}{more}. Images of the others count as unlabelled"
        )
    return classes


def run(spec: EmbedSpec) -> Run:
    """Embed the collections that a spec names."""
    check_names(classifiers=[spec.classifier], collections=[spec.images, spec.second])
    with JOB.on_workers(spec) as (run, _, placement):
        embed(run, spec, placement)
    return run


JOB = Job(
    name="embed",
    help="Features and predictions of a collection.",
    spec=EmbedSpec,
    run=run,
    tables=(LISTINGS, REJECTED, THUMBNAILS, IMAGES),
    part="whylens.jobs.report.parts.rejected:REJECTED",
)
