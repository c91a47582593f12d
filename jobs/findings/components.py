"""The components job: neural PCA of every class, mined and judged.

Two passes over the images table, each shared out over workers, neither of which holds more than a
part of it at a time: a census of labels (jobs.findings.census), then groups of classes
(jobs.findings.finder).
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from pydantic import Field

from whylens.cluster.placement import Resources
from whylens.cluster.room import of_stage
from whylens.errors import WhylensError
from whylens.jobs.findings import census
from whylens.jobs.findings.finder import ComponentFinder, GroupUnit, groups_of, unit_name
from whylens.jobs.findings.stored import COMPONENTS
from whylens.jobs.findings.verdicts import VERDICTS, write_verdicts
from whylens.jobs.images.embedded import IMAGES, no_images
from whylens.jobs.registry import Job
from whylens.jobs.spec import JobSpec, StageSettings
from whylens.jobs.stage import drop_others, work_through
from whylens.jobs.words import listed
from whylens.neural_pca.ranking import DEFAULT, Asked
from whylens.runs import Run
from whylens.runs.lineage import Lineage


class ComponentSettings(StageSettings):
    """How components are found and judged."""

    top: int = Field(32, ge=1, description="Components a class, by eigenvalue.")
    mined: int = Field(
        120, ge=1, description="Images mined a component; at most a twentieth of the collection."
    )
    min_images: int = Field(
        10, ge=2, description="Classes with fewer images are skipped, with a warning."
    )
    times: float = Field(
        DEFAULT.times,
        ge=1,
        description="Suspicious only where mined images get at least so many times as much of the "
        "class as such images get anyway.",
    )
    part: float = Field(
        DEFAULT.part,
        ge=0,
        le=1,
        description="And at least this part of the way from there to what the class's own images "
        "get.",
    )
    false_discoveries: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="Of the components that are called suspicious, the part that may be so by "
        "chance (false discovery rate over all components of the run).",
    )
    classes: list[str] = Field(
        default_factory=list, description="Classes by name or number; empty: all with images."
    )


class ComponentsSpec(JobSpec):
    """Neural PCA on an embedded collection."""

    source: str = Field(description="Run folder of an embed job.")
    components: ComponentSettings = ComponentSettings()


def components(
    run: Run, lineage: Lineage, settings: ComponentSettings, placement: Resources
) -> None:
    """Find, mine and judge the components of each class.

    Raises
    ------
    UsageError
        If the images were embedded by another classifier than the one that is there.
    WhylensError
        If no class has enough images.
    """
    from whylens.classifiers import describe

    name = str(lineage.setting("classifier"))
    classifier = describe(name)
    wanted = [classifier.class_index(c) for c in settings.classes]
    images = lineage.table(IMAGES)
    spans = census.spans_of(images.units())
    placement, own = of_stage(settings.placement, placement), settings.placement
    if own is None or own.num_gpus == "auto":
        # There are more cores than GPUs, and reading images takes as long as what is made of them.
        placement = placement.without_gpus
    if set(run.table(census.CENSUS).units()) != {span.name for span in spans}:
        # Before any class all images are counted; where some are not, they have come since (they
        # had failed), and every class is judged beside them.
        drop_others(run, [], COMPONENTS)
        drop_others(run, spans, census.CENSUS)
    counted = (run, lineage, name)
    work_through(run, census.CENSUS, spans, census.Counter, counted, placement.without_gpus)
    table = run.table(census.CENSUS)
    if not all(table.done(span.name) for span in spans):
        raise WhylensError(
            "not all images could be counted (see the warnings): start the same command again"
        )
    catalogue = table.read(units=[span.name for span in spans])
    counts = np.zeros(len(classifier.class_names), dtype=np.int64)
    main = catalogue.filter(pa.compute.equal(catalogue["collection"], "main"))
    if len(main) == 0:
        raise no_images("main")
    np.add.at(counts, main["class_index"].to_numpy(), main["images"].to_numpy())
    if unlabelled := sum(main["unlabelled"].to_pylist()):
        run.warn(
            f"{unlabelled} of {counts.sum()} images have no class that {name} knows: "
            "its own predictions stand in for their labels"
        )
    present = wanted or np.flatnonzero(counts).tolist()
    enough = [k for k in present if counts[k] >= settings.min_images]
    if len(enough) < len(present):
        few = [classifier.class_names[k] for k in present if k not in enough]
        run.warn(
            f"{len(few)} classes have fewer than {settings.min_images} images and are skipped: "
            f"{listed(few)}"
        )
    if not enough:
        raise WhylensError(
            f"no class has {settings.min_images} images: give more images, or lower "
            "components.min_images"
        )
    drop_others(run, [GroupUnit(unit_name(k), (k,)) for k in enough], COMPONENTS)
    done = set(run.table(COMPONENTS).units())
    missing = [k for k in enough if unit_name(k) not in done]
    top, mined = settings.top, settings.mined
    size = images.read_part(spans[0].parts[0], ["features"])["features"].type.list_size
    groups = groups_of(missing, counts, size, top, mined, placement.workers[1])
    device = placement.device if placement.gpus else None
    asked = Asked(settings.times, settings.part)
    arguments = (run, lineage, name, top, mined, asked, spans, device)
    work_through(run, COMPONENTS, groups, ComponentFinder, arguments, placement)
    write_verdicts(run, settings.false_discoveries)


def run(spec: ComponentsSpec) -> Run:
    """Find and judge the components of a run's classes."""
    with JOB.on_workers(spec) as (run, lineage, placement):
        components(run, lineage, spec.components, placement)
    return run


JOB = Job(
    name="components",
    help="Neural PCA of every class, judged.",
    spec=ComponentsSpec,
    run=run,
    tables=(census.CENSUS, COMPONENTS, VERDICTS),
    part="whylens.jobs.report.parts.findings:FINDINGS",
)
