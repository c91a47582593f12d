"""The investigate job: from images to findings in pictures, one stage after the other."""

from __future__ import annotations

import logging

from pydantic import Field

from whylens.cluster.placement import Placement
from whylens.cluster.session import session
from whylens.errors import UsageError
from whylens.jobs.checking import check_names
from whylens.jobs.findings.components import JOB as COMPONENTS
from whylens.jobs.findings.components import ComponentSettings, components
from whylens.jobs.findings.exemplars import JOB as EXEMPLARS
from whylens.jobs.findings.exemplars import ExemplarSettings, exemplars
from whylens.jobs.findings.stored import directions
from whylens.jobs.findings.visualisations import VisualisationSpec
from whylens.jobs.guided.counterfactual_plan import CounterfactualSpec
from whylens.jobs.guided.counterfactuals import JOB as COUNTERFACTUALS
from whylens.jobs.guided.counterfactuals import counterfactuals
from whylens.jobs.guided.disagreement_plan import DisagreementSpec
from whylens.jobs.guided.disagreements import JOB as DISAGREEMENTS
from whylens.jobs.guided.disagreements import disagreements
from whylens.jobs.guided.generate import JOB as GENERATE
from whylens.jobs.guided.generate import GenerateSpec, generate
from whylens.jobs.guided.models import Models
from whylens.jobs.guided.spec import SamplerName
from whylens.jobs.guided.starts import StartSettings, starts
from whylens.jobs.guided.targets import RULES
from whylens.jobs.images.embed import JOB as EMBED
from whylens.jobs.images.embed import EmbedSpec, embed
from whylens.jobs.images.embedded import IMAGES
from whylens.jobs.images.index import JOB as INDEX
from whylens.jobs.images.index import IndexSettings, index
from whylens.jobs.registry import Job
from whylens.jobs.slices.confirm import JOB as CONFIRM
from whylens.jobs.slices.confirm import ConfirmSettings, confirm, queries_of
from whylens.runs import Run
from whylens.runs.lineage import Lineage

logger = logging.getLogger(__name__)

# Features of fewer are read by every worker in a second or two.
INDEX_FROM = 20_000


class InvestigateSpec(EmbedSpec):
    """All stages, from embedding to the report."""

    against: str | None = Field(
        None, description="A second classifier, to find images on which the two disagree."
    )
    sampler: SamplerName = "planted"
    placement: Placement = Field(
        default_factory=Placement,
        description="How many workers, with which resources, and where classifiers are; stages "
        "have settings of the same name.",
    )
    index: IndexSettings | None = Field(
        default_factory=IndexSettings,
        description=f"The index of {INDEX_FROM:,} images or more, which workers read memory-mapped "
        "from a run folder on disk; null: every worker that searches holds all features.",
    )
    components: ComponentSettings = Field(
        default_factory=ComponentSettings, description="How components are found."
    )
    exemplars: ExemplarSettings = Field(
        default_factory=ExemplarSettings, description="What becomes a finding."
    )
    starts: StartSettings = Field(
        default_factory=StartSettings,
        description="From which prompts images of findings start.",
    )
    visualisations: VisualisationSpec | None = Field(
        default_factory=VisualisationSpec,
        description="Feature visualisations of findings, which count in the rank; null: none.",
    )
    generate: GenerateSpec | None = Field(
        default_factory=GenerateSpec, description="Images of findings; null: none."
    )
    counterfactuals: CounterfactualSpec | None = Field(
        default_factory=CounterfactualSpec, description="Changed images; null: none."
    )
    disagreements: DisagreementSpec | None = Field(
        default_factory=DisagreementSpec,
        description="Images on which `against` disagrees; null: none.",
    )
    confirm: ConfirmSettings | None = Field(
        default_factory=ConfirmSettings,
        description="Real images of `second` that fail as generated ones do, `against` being the "
        "judge where none is named; null: none.",
    )
    report: dict[str, int] = Field(
        default_factory=dict,
        description="How much of each part the report shows; `whylens report --help` lists them.",
    )


def large(lineage: Lineage) -> bool:
    """Whether so many images were embedded that their index pays."""
    return lineage.has(IMAGES) and len(lineage.table(IMAGES).read(["label"])) >= INDEX_FROM


def check(spec: InvestigateSpec) -> None:
    """Everything that can be wrong is found before work is spent.

    Raises
    ------
    UsageError
        An unknown classifier, sampler or class; a collection that isn't there or holds no images;
        a limit of the report that isn't one.
    """
    from whylens.jobs.report.part import limited

    limited(spec.report)
    for_both = spec.disagreements.classes if spec.disagreements else []
    named = [
        *spec.components.classes,
        *(spec.counterfactuals.classes if spec.counterfactuals else []),
        *for_both,
    ]
    if spec.counterfactuals and spec.counterfactuals.target not in RULES:
        named.append(spec.counterfactuals.target)
    guided = spec.generate or spec.counterfactuals or (spec.disagreements and spec.against)
    _, *others = check_names(
        classifiers=[spec.classifier, spec.against],
        collections=[spec.images, spec.second],
        classes=named,
        sampler=spec.sampler if guided else None,
        words=spec.counterfactuals is not None and spec.counterfactuals.asks_words,
    )
    for against in others:
        for name in for_both:
            against.class_index(name)
    check_names(classifiers=[spec.confirm.judge if spec.confirm else None])


def run(spec: InvestigateSpec) -> Run:
    """Do what is missing of the run and write its report; the run."""
    from whylens.jobs.report.page import ReportSpec
    from whylens.jobs.report.page import run as report

    check(spec)
    with JOB.working(spec) as run:
        lineage = Lineage(run)
        others = [spec.against] if spec.against else []
        models = Models(spec.sampler, spec.classifier, others)
        if spec.sampler.partition("?")[0] == "planted" and not spec.images.startswith("planted:"):
            run.warn(
                "The planted sampler was trained on drawings, not on photographs: what it "
                "generates and changes shows how the tool works, not what the classifier relies "
                "on. Name a Stable Diffusion pipeline with --sampler"
            )
        with session() as ray:
            models = models.on(ray, spec.placement)
            placement = models.placement
            embed(run, spec, placement)
            if spec.index and large(lineage):
                index(run, lineage, spec.index, placement)
            components(run, lineage, spec.components, placement)
            exemplars(run, lineage, spec.exemplars, spec.visualisations, placement)
            findings = run.table("findings").read().to_pylist() if lineage.has("findings") else []
            arrows = directions(lineage, findings)
            prompts = {}
            if drawing := spec.generate or (spec.disagreements if spec.against else None):
                chain = drawing.guidance.chain
                prompts = starts(run, lineage, spec.starts, chain, models, findings, arrows)
            if spec.generate:
                generate(run, lineage, spec.generate, models, findings, arrows, prompts)
            if spec.counterfactuals:
                counterfactuals(run, lineage, spec.counterfactuals, models)
            named = spec.disagreements.classes if spec.disagreements else []
            if spec.disagreements and spec.against and (findings or named):
                try:
                    disagreements(run, lineage, spec.disagreements, models, findings, prompts)
                except UsageError as error:
                    if named:
                        raise
                    run.warn(f"disagreements: {error}")
            if spec.confirm and spec.second and (pictures := queries_of(lineage)):
                judge = spec.confirm.judge or spec.against
                asked = spec.confirm.model_copy(update={"judge": judge})
                try:
                    confirm(run, lineage, asked, placement, pictures)
                except UsageError as error:
                    if spec.confirm.classes:
                        raise
                    run.warn(f"confirm: {error}")
    report(ReportSpec(run=spec.out, limits=spec.report))
    return run


STAGES = (EMBED, INDEX, COMPONENTS, EXEMPLARS, GENERATE, COUNTERFACTUALS, DISAGREEMENTS, CONFIRM)
JOB = Job(
    name="investigate",
    help="From images to findings in pictures: all stages.",
    spec=InvestigateSpec,
    run=run,
    tables=tuple(dict.fromkeys(name for stage in STAGES for name in stage.tables)),
    show="whylens.jobs.findings.terminal:show_findings",
)
