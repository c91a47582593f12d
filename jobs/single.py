"""Stages as jobs of their own, each in a run folder that names the run it builds on."""

from __future__ import annotations

from pydantic import Field

from whylens.cluster.session import session
from whylens.errors import UsageError
from whylens.jobs.checking import check_names
from whylens.jobs.findings import components as components_job
from whylens.jobs.findings import exemplars as exemplars_job
from whylens.jobs.findings import visualisations as visualisations_job
from whylens.jobs.findings.components import ComponentsSpec
from whylens.jobs.findings.exemplars import ExemplarsSpec
from whylens.jobs.findings.stored import directions
from whylens.jobs.guided import counterfactuals as counterfactuals_job
from whylens.jobs.guided import disagreements as disagreements_job
from whylens.jobs.guided import generate as generate_job
from whylens.jobs.guided import neuron_plan
from whylens.jobs.guided import neurons as neurons_job
from whylens.jobs.guided.models import Models
from whylens.jobs.guided.starts import StartSettings, starts
from whylens.jobs.images import embed as embed_job
from whylens.jobs.images import index as index_job
from whylens.jobs.images.embed import EmbedSpec
from whylens.jobs.images.index import IndexSpec
from whylens.jobs.lineage import Lineage
from whylens.jobs.spec import JobSpec
from whylens.runs import Run


class _Guided(JobSpec):
    sampler: str = Field(
        "planted",
        description='"planted", a diffusers pipeline folder, or a Hub name; options go behind it: '
        "NAME?dtype=bfloat16&image_size=512.",
    )


class _Starting(_Guided):
    starts: StartSettings = Field(
        default_factory=lambda: StartSettings(),
        description="From which prompts images of findings start.",
    )


class GenerateJobSpec(_Starting):
    """Images of the findings of an exemplars or investigate job."""

    source: str = Field(description="Run folder of an exemplars or investigate job.")
    against: list[str] = Field(
        default_factory=list, description="Other classifiers, whose view is noted too."
    )
    generate: generate_job.GenerateSpec = Field(
        default_factory=lambda: generate_job.GenerateSpec(), description="How images are made."
    )


class VisualisationsJobSpec(JobSpec):
    """Feature visualisations of the findings of an exemplars or investigate job."""

    source: str = Field(description="Run folder of an exemplars or investigate job.")
    visualisations: visualisations_job.VisualisationSpec = Field(
        default_factory=lambda: visualisations_job.VisualisationSpec(),
        description="How components are visualised.",
    )


class CounterfactualsJobSpec(_Guided):
    """Counterfactuals of images that were embedded."""

    source: str = Field(description="Run folder of an embed or investigate job.")
    against: list[str] = Field(
        default_factory=list, description="Other classifiers, whose view is noted too."
    )
    counterfactuals: counterfactuals_job.CounterfactualSpec = Field(
        default_factory=lambda: counterfactuals_job.CounterfactualSpec(),
        description="Which images are changed, and how.",
    )


class DisagreementsJobSpec(_Starting):
    """Images on which classifiers disagree."""

    source: str | None = Field(
        None, description="Run folder of an exemplars or investigate job, for its findings."
    )
    classifier: str = Field(description="The classifier that says the class.")
    against: list[str] = Field(min_length=1, description="Classifiers that do not, one or more.")
    disagreements: disagreements_job.DisagreementSpec = Field(
        default_factory=lambda: disagreements_job.DisagreementSpec(),
        description="On which classes, and how.",
    )


class NeuronsJobSpec(_Guided):
    """What single features of a classifier respond to."""

    source: str = Field(description="Run folder of an embed or investigate job.")
    against: list[str] = Field(
        default_factory=list, description="Other classifiers, whose view is noted too."
    )
    neurons: neuron_plan.NeuronSpec = Field(
        default_factory=neuron_plan.NeuronSpec,
        description="Which neurons are shown, and how.",
    )


def run_embed(spec: EmbedSpec) -> Run:
    check_names(classifiers=[spec.classifier], collections=[spec.images, spec.second])
    run = _start(spec, "embed")
    with session():
        embed_job.embed(run, spec, spec.placement)
    return _finished(run)


def run_index(spec: IndexSpec) -> Run:
    run = _start(spec, "index", spec.source)
    with session():
        index_job.index(run, Lineage(run), spec.index, spec.placement)
    return _finished(run)


def run_components(spec: ComponentsSpec) -> Run:
    run = _start(spec, "components", spec.source)
    with session():
        components_job.components(run, Lineage(run), spec.components, spec.placement)
    return _finished(run)


def run_exemplars(spec: ExemplarsSpec) -> Run:
    run = _start(spec, "exemplars", spec.source)
    with session():
        exemplars_job.exemplars(
            run, Lineage(run), spec.exemplars, spec.visualisations, spec.placement
        )
    return _finished(run)


def run_visualisations(spec: VisualisationsJobSpec) -> Run:
    run = _start(spec, "visualisations", spec.source)
    lineage = Lineage(run)
    findings = lineage.table("findings").read().to_pylist()
    findings.sort(key=lambda row: row["rank"])
    with session():
        visualisations_job.visualisations(
            run,
            spec.visualisations,
            findings,
            directions(lineage, findings),
            classifier=str(lineage.setting("classifier")),
            placement=spec.placement,
        )
    return _finished(run)


def run_generate(spec: GenerateJobSpec) -> Run:
    check_names(classifiers=spec.against, sampler=spec.sampler)
    run = _start(spec, "generate", spec.source)
    lineage = Lineage(run)
    models = Models(spec.sampler, str(lineage.setting("classifier")), spec.against, spec.placement)
    findings = lineage.table("findings").read().to_pylist()
    arrows = directions(lineage, findings)
    chain = spec.generate.guidance.chain
    with session():
        prompts = starts(run, lineage, spec.starts, chain, models, findings, arrows)
        generate_job.generate(run, lineage, spec.generate, models, findings, arrows, prompts)
    return _finished(run)


def run_counterfactuals(spec: CounterfactualsJobSpec) -> Run:
    check_names(classifiers=spec.against, sampler=spec.sampler)
    source = Lineage(Run.open(spec.source))
    classifier = str(source.setting("classifier"))
    counterfactuals_job.planned(source, classifier, spec.counterfactuals)
    run = _start(spec, "counterfactuals", spec.source)
    models = Models(spec.sampler, classifier, spec.against, spec.placement)
    with session():
        counterfactuals_job.counterfactuals(run, Lineage(run), spec.counterfactuals, models)
    return _finished(run)


def run_disagreements(spec: DisagreementsJobSpec) -> Run:
    models = Models(spec.sampler, spec.classifier, spec.against, spec.placement)
    named = models.classifiers
    loaded = check_names(
        classifiers=named, sampler=spec.sampler, classes=spec.disagreements.classes
    )
    disagreements_job.scouting([], {}, dict(zip(named, loaded, strict=True)), spec.disagreements)
    if spec.source:
        explained = Lineage(Run.open(spec.source)).setting("classifier")
        if explained != spec.classifier:
            raise UsageError(
                f"the findings in {spec.source} are of {explained}, not of {spec.classifier}: "
                f"give --classifier {explained}, or another source"
            )
    run = _start(spec, "disagreements", spec.source)
    lineage = Lineage(run)
    findings = lineage.table("findings").read().to_pylist() if lineage.has("findings") else []
    chain, arrows = spec.disagreements.guidance.chain, directions(lineage, findings)
    with session():
        prompts = starts(run, lineage, spec.starts, chain, models, findings, arrows)
        disagreements_job.disagreements(run, lineage, spec.disagreements, models, findings, prompts)
    return _finished(run)


def run_neurons(spec: NeuronsJobSpec) -> Run:
    lineage = Lineage(Run.open(spec.source))
    models = Models(spec.sampler, str(lineage.setting("classifier")), spec.against, spec.placement)
    (explained, *_) = check_names(classifiers=models.classifiers, sampler=spec.sampler)
    neuron_plan.check(spec.neurons, explained)
    run = _start(spec, "neurons", spec.source)
    with session():
        neurons_job.neurons(run, Lineage(run), spec.neurons, models)
    return _finished(run)


def _start(spec: JobSpec, job: str, source: str | None = None) -> Run:
    if source is not None:
        Run.open(source)
    return Run.start(spec.out, job, spec.model_dump(mode="json"))


def _finished(run: Run) -> Run:
    run.finish()
    return run
