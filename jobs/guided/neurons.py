"""The neurons job: what single features respond to, and what happens to images as they change.

A neuron is a feature phi_n. Its exemplars give words, plain images of each word are made, and from
the word that raises the neuron most, images are optimised. Real images are changed so that it rises
or falls: if a class is predicted only while what a neuron sees is there, that is spurious.
("DiG-IN", section 6.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from whylens.cluster.placement import Placement
from whylens.cluster.session import session
from whylens.jobs.checking import check_names
from whylens.jobs.guided import opinions, trajectory
from whylens.jobs.guided.inversions import TABLE as INVERSIONS
from whylens.jobs.guided.inversions import Inversions
from whylens.jobs.guided.neuron_plan import (
    NeuronSpec,
    NeuronTask,
    NeuronUnit,
    WordsUnit,
    check,
    choose,
    plan,
    suggested,
)
from whylens.jobs.guided.prompts import prompt_for
from whylens.jobs.guided.spec import Against, GuidedSpec
from whylens.jobs.images import closest
from whylens.jobs.images.embedded import COLUMNS, read_captions, read_embedded
from whylens.jobs.lineage import Lineage
from whylens.jobs.registry import Job
from whylens.jobs.stage import work_through
from whylens.runs import Run

if TYPE_CHECKING:
    import torch

    from whylens.guidance.optimiser import Solution

WORDS = "neuron_words"
TABLE = "neurons"
WORDS_SCHEMA = pa.schema(
    [
        ("neuron", pa.int32()),
        ("class_index", pa.int32()),
        ("class_name", pa.string()),
        ("rank", pa.int32()),  # of the finding that the neuron carries; null: none
        ("share", pa.float32()),
        ("word", pa.string()),
        ("prompt", pa.string()),
        ("images", pa.list_(pa.binary())),
        ("activation", pa.float32()),
        ("chosen", pa.bool_()),
    ]
)
SCHEMA = pa.schema(
    [
        ("neuron", pa.int32()),
        ("class_index", pa.int32()),
        ("class_name", pa.string()),
        ("kind", pa.string()),
        ("place", pa.int32()),
        ("image_id", pa.string()),
        ("word", pa.string()),
        ("prompt", pa.string()),
        ("seed", pa.int64()),
        ("before", pa.binary()),
        ("after", pa.binary()),
        ("difference", pa.binary()),
        # Where a real image could change, as PNG.
        ("mask", pa.binary()),
        *trajectory.FIELDS,
        ("losses", pa.list_(pa.float32())),
        ("activation_before", pa.float32()),
        ("activation_after", pa.float32()),
        # Mean and standard deviation of the neuron over the run's images.
        ("mean", pa.float32()),
        ("deviation", pa.float32()),
        opinions.FIELD,
        closest.FIELD,
        ("failed", pa.string()),
    ]
)


class NeuronsJobSpec(GuidedSpec):
    """What single features of a classifier respond to."""

    source: str = Field(description="Run folder of an embed or investigate job.")
    against: Against = Field(default_factory=list)
    neurons: NeuronSpec = Field(
        default_factory=NeuronSpec, description="Which neurons are shown, and how."
    )


def neurons(
    run: Run,
    lineage: Lineage,
    spec: NeuronSpec,
    *,
    sampler: str,
    classifier: str,
    against: Sequence[str],
    placement: Placement,
) -> None:
    """The stages neuron_words and neurons: what is missing of both tables."""
    from whylens.classifiers import load_classifier

    table = lineage.table("images").read(COLUMNS)
    embedded = read_embedded(table, "main")
    tags = [tag for tag in ("second", "main") if tag in set(table["collection"].to_pylist())]
    findings = lineage.table("findings").read().to_pylist() if lineage.has("findings") else []
    loaded = load_classifier(classifier)
    chosen = choose(
        embedded,
        [read_embedded(table, tag) for tag in tags],
        findings,
        loaded.head.arrays()[0],
        spec,
    )
    words = [
        WordsUnit(f"neuron-{n.index:06d}", n, suggested(n, embedded, loaded.class_names, spec))
        for n in chosen
    ]
    arguments: tuple[Any, ...] = (run, spec, sampler, classifier, placement.device)
    work_through(run, WORDS, words, WordTrier, arguments, placement)
    rows = run.table(WORDS).read().to_pylist() if run.table(WORDS).units() else []
    best = {row["neuron"]: (row["word"], row["prompt"]) for row in rows if row["chosen"]}
    arguments = (run, lineage, spec, sampler, classifier, tuple(against), placement.device)
    work_through(run, TABLE, plan(chosen, best, embedded, spec), Activator, arguments, placement)


class WordTrier:
    """A worker: makes plain images of a neuron's words, writes its part."""

    def __init__(
        self, run: Run, spec: NeuronSpec, sampler: str, classifier: str, device: str
    ) -> None:
        """Load sampler and classifier by name onto the device."""
        from whylens.classifiers import load_classifier
        from whylens.diffusion import load_sampler

        self.run, self.spec = run, spec
        self.sampler = load_sampler(sampler, device)
        self.classifier = load_classifier(classifier, device)

    def __call__(self, unit: WordsUnit) -> int:
        """Try the unit's words; how many."""
        from whylens.diffusion import sample
        from whylens.jobs.images.pictures import measured, png

        spec, neuron = self.spec, unit.neuron
        seeds = [spec.seed + place for place in range(spec.samples)]
        rows: list[dict[str, Any]] = []
        for word, prompt in unit.words:
            images = sample(
                self.sampler,
                [prompt] * len(seeds),
                seeds,
                steps=spec.guidance.steps,
                guidance_scale=spec.guidance.guidance_scale,
            )
            seen = [float(measured(self.classifier, image)[0][neuron.index]) for image in images]
            rows.append(
                {
                    "neuron": neuron.index,
                    "class_index": neuron.class_index,
                    "class_name": self.classifier.class_names[neuron.class_index],
                    "rank": neuron.rank,
                    "share": neuron.share,
                    "word": word,
                    "prompt": prompt,
                    "images": [png(image) for image in images],
                    "activation": float(np.mean(seen)),
                }
            )
        best = int(np.argmax([row["activation"] for row in rows]))
        rows = [{**row, "chosen": place == best} for place, row in enumerate(rows)]
        self.run.table(WORDS).write(unit.name, pa.Table.from_pylist(rows, schema=WORDS_SCHEMA))
        return len(rows)


class Activator:
    """A worker: optimises one unit's images for their neurons, writes its part."""

    def __init__(
        self,
        run: Run,
        lineage: Lineage,
        spec: NeuronSpec,
        sampler: str,
        classifier: str,
        against: Sequence[str],
        device: str,
    ) -> None:
        """Open the collection, load sampler and classifiers by name onto the device."""
        from whylens.classifiers import load_classifier
        from whylens.diffusion import load_sampler
        from whylens.images import open_collection

        self.run, self.lineage, self.spec = run, lineage, spec
        self.collection = open_collection(str(lineage.setting("images")))
        self.records = {record.id: record for record in self.collection.records}
        self.sampler = load_sampler(sampler, device)
        self.classifier = load_classifier(classifier, device)
        others = {name: load_classifier(name, device) for name in against}
        self.classifiers = {classifier: self.classifier, **others}
        self.closest = closest.Closest(lineage, self.classifier)
        self.inversions = Inversions(run, lineage, self.sampler, spec.changing)

    def __call__(self, unit: NeuronUnit) -> int:
        """Optimise the unit's images; how many."""
        tasks = unit.tasks
        settings = self.spec.guidance if tasks[0].kind == "image" else self.spec.changing
        way = trajectory.Trajectory(settings.optimisation_steps)
        if tasks[0].kind == "image":
            prompts = [task.prompt or "" for task in tasks]
            starts, solutions = [None] * len(tasks), self.made(tasks, prompts, way)
        else:
            starts, prompts, solutions = self.changed(tasks, way)
        rows = [
            {
                **self.row(task, start, solution),
                **way.columns(solution),
                "prompt": prompt,
            }
            for task, start, solution, prompt in zip(tasks, starts, solutions, prompts, strict=True)
        ]
        self.run.table(TABLE).write(unit.name, pa.Table.from_pylist(rows, schema=SCHEMA))
        return len(rows)

    def made(
        self, tasks: Sequence[NeuronTask], prompts: list[str], way: trajectory.Trajectory
    ) -> list[Solution]:
        """Images from words."""
        from whylens.guidance.optimiser import Problem, optimise

        problems = [Problem(p, task.seed) for p, task in zip(prompts, tasks, strict=True)]
        objective = self.objective(tasks, self.spec.weight_log_p)
        return optimise(self.sampler, problems, objective, self.spec.guidance, way.on_step)

    def changed(
        self, tasks: Sequence[NeuronTask], way: trajectory.Trajectory
    ) -> tuple[Any, list[str], list[Solution]]:
        """Real images: (as they were, their prompts, solutions)."""
        import torch

        from whylens.guidance.neurons import leave_out, neuron_counterfactual
        from whylens.guidance.optimiser import Solution
        from whylens.images.tensors import to_tensor, too_small

        records = [self.records[str(task.image_id)] for task in tasks]
        size = self.sampler.image_size
        pictures = [self.collection.load(record) for record in records]
        images = torch.stack([to_tensor(p, size) for p in pictures]).to(self.sampler.device)
        failed = [too_small(picture, size) for picture in pictures]
        captions = read_captions(self.lineage, [record.id for record in records])
        prompts = [
            captions.get(record.id)
            or prompt_for(self.spec.prompt_template, record.class_name or "thing")
            for record in records
        ]
        # The class's own word stays: the question is whether the class is said without the feature.
        after = [
            leave_out(prompt, task.word)
            if self.spec.leave_out_word
            and task.kind == "down"
            and task.word
            and task.word != record.class_name
            else prompt
            for prompt, task, record in zip(prompts, tasks, records, strict=True)
        ]
        fit = [place for place, reason in enumerate(failed) if reason is None]
        solutions = [Solution(failed=reason) for reason in failed]
        if fit:
            solved = neuron_counterfactual(
                self.sampler,
                images[fit],
                [prompts[place] for place in fit],
                [after[place] for place in fit],
                self.objective([tasks[place] for place in fit], 0.0),
                self.spec.changing,
                seeds=[tasks[place].seed for place in fit],
                inversion=self.inversions.of(
                    [str(tasks[place].image_id) for place in fit],
                    images[fit],
                    [prompts[place] for place in fit],
                ),
                on_step=way.on_step,
            )
            for place, solution in zip(fit, solved, strict=True):
                solutions[place] = solution
        return images, after, solutions

    def objective(self, tasks: Sequence[NeuronTask], weight_log_p: float) -> Any:
        """-phi_n where a neuron is to rise, phi_n where it is to fall, in standard deviations."""
        import torch

        from whylens.guidance.objectives import FeatureObjective

        device = self.sampler.device
        return FeatureObjective(
            self.classifier,
            torch.tensor([task.neuron.index for task in tasks], device=device),
            torch.tensor([-1.0 if t.kind == "down" else 1.0 for t in tasks], device=device),
            torch.tensor([task.deviation for task in tasks], device=device),
            weight_log_p=weight_log_p,
            classes=torch.tensor([task.neuron.class_index for task in tasks], device=device),
        )

    def row(
        self, task: NeuronTask, start: torch.Tensor | None, solution: Solution
    ) -> dict[str, Any]:
        """The table's row of one solution, its numbers measured on the stored pictures."""
        from whylens.jobs.images.pictures import difference, mask_png, measured, png

        names = self.classifier.class_names
        row: dict[str, Any] = {
            "neuron": task.neuron.index,
            "class_index": task.neuron.class_index,
            "class_name": names[task.neuron.class_index],
            "kind": task.kind,
            "place": task.place,
            "image_id": task.image_id,
            "word": task.word,
            "seed": task.seed,
            "losses": [float(loss) for loss in solution.loss_trajectory],
            "mean": task.mean,
            "deviation": task.deviation,
            "mask": mask_png(solution.mask),
            "failed": solution.failed,
        }
        before = solution.start_image if start is None else start
        after = solution.image
        shown = [names[task.neuron.class_index]]
        for image, when in ((before, "before"), (after, "after")):
            if image is not None:
                features, probabilities = measured(self.classifier, image)
                row[when] = png(image)
                row[f"activation_{when}"] = float(features[task.neuron.index])
                shown.append(names[int(probabilities.argmax())])
        if before is not None and after is not None:
            row["difference"] = png(difference(before, after))
            features, _ = measured(self.classifier, after)
            row["closest"] = self.closest(features.float().cpu().numpy())
        row["probabilities"] = opinions.opinions(self.classifiers, shown, before, after)
        return row


def run(spec: NeuronsJobSpec) -> Run:
    """Show what neurons of a run's classifier respond to."""
    lineage = Lineage(Run.open(spec.source))
    classifier = str(lineage.setting("classifier"))
    (explained, *_) = check_names(classifiers=[classifier, *spec.against], sampler=spec.sampler)
    check(spec.neurons, explained)
    run = JOB.start(spec)
    with session():
        neurons(
            run,
            Lineage(run),
            spec.neurons,
            sampler=spec.sampler,
            classifier=classifier,
            against=spec.against,
            placement=spec.placement,
        )
    run.finish()
    return run


JOB = Job(
    name="neurons",
    help="What single features respond to, and images in which they rise or fall.",
    spec=NeuronsJobSpec,
    run=run,
    tables=(WORDS, INVERSIONS, TABLE),
    part="whylens.jobs.report.parts.neurons:NEURONS",
)
