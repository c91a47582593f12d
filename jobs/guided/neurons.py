"""The neurons job: what single features respond to, and what happens to images as they change.

A neuron is a feature phi_n. Its exemplars give words, plain images of each word are made, and from
the word that raises the neuron most, images are optimised. Real images are changed so that it rises
or falls: if a class is predicted only while what a neuron sees is there, that is spurious.
("DiG-IN", section 6.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from whylens.cluster.session import session
from whylens.jobs.checking import check_names
from whylens.jobs.columns import columns, columns_of
from whylens.jobs.guided.inversions import INVERSIONS, Inversions
from whylens.jobs.guided.models import Models
from whylens.jobs.guided.neuron_plan import (
    By,
    Neuron,
    NeuronSpec,
    NeuronTask,
    WordsUnit,
    check,
    choose,
    plan,
    strengths,
    suggested,
)
from whylens.jobs.guided.prompts import prompt_for
from whylens.jobs.guided.real_images import RealImages
from whylens.jobs.guided.spec import Against, GuidedSpec
from whylens.jobs.guided.worker import SHARED, GuidedWorker, Made, Picture
from whylens.jobs.images.embedded import (
    COLUMNS,
    Embedded,
    labels_used,
    read_captions,
    read_embedded,
    thumbnails_of,
)
from whylens.jobs.images.pictures import mask_png
from whylens.jobs.registry import Job
from whylens.jobs.stage import Batch, work_through
from whylens.runs import Run
from whylens.runs.lineage import Lineage

if TYPE_CHECKING:
    from whylens.guidance.objectives import FeatureObjective
    from whylens.images import ImageRecord

WORDS, EXEMPLARS = "neuron_words", "neuron_exemplars"
# Exemplars that are shown, by activation and by relevance each.
SHOWN = 6
TABLE = "neurons"
WORDS_SCHEMA = pa.schema(
    [
        *columns(pa.int32(), "neuron", "class_index"),
        ("class_name", pa.string()),
        ("rank", pa.int32()),  # of the finding that the neuron carries; null: none
        ("share", pa.float32()),
        *columns(pa.string(), "word", "prompt"),
        ("images", pa.list_(pa.binary())),
        ("activation", pa.float32()),
        ("chosen", pa.bool_()),
    ]
)
EXEMPLARS_SCHEMA = pa.schema(
    [
        ("neuron", pa.int32()),
        ("by", pa.string()),  # activation, or relevance
        ("place", pa.int32()),
        # The class is the one that is said, to whose logit the neuron adds its relevance.
        *columns(pa.string(), "image_id", "class_name"),
        *columns(pa.float32(), "activation", "relevance"),
        ("thumb", pa.binary()),
    ]
)
SCHEMA = pa.schema(
    [
        *columns(pa.int32(), "neuron", "class_index"),
        *columns(pa.string(), "class_name", "kind"),
        ("place", pa.int32()),
        *columns(pa.string(), "image_id", "word", "prompt"),
        ("seed", pa.int64()),
        *columns(pa.binary(), "before", "after"),
        # Where a real image could change, as PNG.
        ("mask", pa.binary()),
        *columns(pa.float32(), "activation_before", "activation_after"),
        # Mean and standard deviation of the neuron over the run's images.
        *columns(pa.float32(), "mean", "deviation"),
        *SHARED,
    ]
)


class NeuronsJobSpec(GuidedSpec):
    """What single features of a classifier respond to."""

    source: str = Field(description="Run folder of an embed or investigate job.")
    against: Against = Field([])
    neurons: NeuronSpec = Field(NeuronSpec(), description="Which neurons are shown, and how.")


def neurons(run: Run, lineage: Lineage, spec: NeuronSpec, models: Models) -> None:
    """The stages neuron_words and neurons: what is missing of their tables."""
    from whylens.classifiers import load_classifier

    table = lineage.table("images").read(COLUMNS)
    embedded = read_embedded(table, "main")
    tags = [tag for tag in ("second", "main") if tag in set(table["collection"].to_pylist())]
    findings = lineage.table("findings").read().to_pylist() if lineage.has("findings") else []
    loaded = load_classifier(models.classifier)
    weight = loaded.head.arrays()[0]
    chosen = choose(
        embedded,
        [read_embedded(table, tag) for tag in tags],
        findings,
        weight,
        spec,
    )
    strong = {n: strengths(n, embedded, weight) for n in chosen}
    if not run.table(EXEMPLARS).done("all"):
        rows = shown_exemplars(lineage, strong, embedded, loaded.class_names, spec.exemplars)
        run.table(EXEMPLARS).write("all", pa.Table.from_pylist(rows, schema=EXEMPLARS_SCHEMA))
    words = [
        WordsUnit(
            f"neuron-{n.index:06d}",
            n,
            suggested(strong[n][spec.exemplars_by], embedded, loaded.class_names, spec),
        )
        for n in chosen
    ]
    models = models.of_stage(spec.placement)
    alone = replace(models, against=())
    work_through(run, WORDS, words, WordTrier, (run, lineage, alone, spec), models.placement)
    rows = run.table(WORDS).read().to_pylist() if run.table(WORDS).units() else []
    best = {row["neuron"]: (row["word"], row["prompt"]) for row in rows if row["chosen"]}
    units = plan(chosen, best, embedded, spec)
    work_through(run, TABLE, units, Activator, (run, lineage, models, spec), models.placement)


def shown_exemplars(
    lineage: Lineage,
    strong: Mapping[Neuron, Mapping[By, np.ndarray]],
    embedded: Embedded,
    class_names: Sequence[str],
    count: int,
) -> list[dict[str, Any]]:
    """Rows of the table neuron_exemplars: the first of `count`, by the neurons' strengths."""
    from whylens.guidance.neurons import mixed_exemplars

    labels = labels_used(embedded)
    rows = [
        {
            "neuron": neuron.index,
            "by": by,
            "place": place,
            "image_id": embedded.ids[image],
            "class_name": class_names[embedded.predicted[image]],
            **{name: float(values[image]) for name, values in of.items()},
        }
        for neuron, of in strong.items()
        for by, strength in of.items()
        for place, image in enumerate(mixed_exemplars(strength, labels, count)[:SHOWN])
    ]
    thumbs = thumbnails_of(lineage, {row["image_id"] for row in rows})
    return [{**row, "thumb": thumbs.get(row["image_id"])} for row in rows]


class WordTrier(GuidedWorker[NeuronSpec]):
    """A worker: makes plain images of a neuron's words, writes its part."""

    def __call__(self, unit: WordsUnit) -> int:
        """Try the unit's words; how many."""
        spec, neuron = self.spec, unit.neuron
        seeds = [spec.seed + place for place in range(spec.samples)]
        rows: list[dict[str, Any]] = []
        for word, prompt in unit.words:
            pictures = self.plain([prompt] * len(seeds), seeds, spec.guidance.chain)
            seen = [picture.features(self.classifier)[neuron.index] for picture in pictures]
            rows.append(
                {
                    **columns_of(neuron, WORDS_SCHEMA),
                    "neuron": neuron.index,
                    "class_name": self.classifier.class_names[neuron.class_index],
                    "word": word,
                    "prompt": prompt,
                    "images": [picture.png for picture in pictures],
                    "activation": float(np.mean(seen)),
                }
            )
        best = int(np.argmax([row["activation"] for row in rows]))
        rows = [{**row, "chosen": place == best} for place, row in enumerate(rows)]
        return self.write(WORDS, unit.name, WORDS_SCHEMA, rows)


class Activator(GuidedWorker[NeuronSpec]):
    """A worker: optimises one unit's images for their neurons, writes its part."""

    def __init__(self, run: Run, lineage: Lineage, models: Models, spec: NeuronSpec) -> None:
        super().__init__(run, lineage, models, spec)
        self.real = RealImages(lineage, self.sampler)
        self.inversions = Inversions(run, lineage, self.sampler, spec.changing, self.memory)

    def __call__(self, unit: Batch[NeuronTask]) -> int:
        """Optimise the unit's images; how many."""
        tasks = unit.tasks
        from_words = tasks[0].kind == "image"
        prompts, made, objective = self.shown(tasks) if from_words else self.changed(tasks)
        rows = [
            {
                **self.row(task, one),
                "prompt": prompt,
                **self.columns(one, objective, self.asked(task, one)),
            }
            for task, one, prompt in zip(tasks, made, prompts, strict=True)
        ]
        return self.write(TABLE, unit.name, SCHEMA, rows)

    def shown(self, tasks: Sequence[NeuronTask]) -> tuple[list[str], list[Made], str]:
        """Images from words: their prompts, what became of them, and by which objective."""
        prompts, seeds = [task.prompt or "" for task in tasks], [task.seed for task in tasks]
        objective = self.objective(tasks, self.spec.weight_log_p)
        made = self.from_prompts(prompts, seeds, objective, self.spec.guidance)
        return prompts, made, objective.name

    def changed(self, tasks: Sequence[NeuronTask]) -> tuple[list[str], list[Made], str | None]:
        """Real images: as `shown`."""
        from whylens.guidance.neurons import neuron_problems

        ids = [str(task.image_id) for task in tasks]
        loaded = self.real.load(ids)
        before, after = self.prompts(tasks, loaded.records)
        made: list[Made] = []
        name = None
        if fit := loaded.fit:
            images, own = loaded.images[fit], [before[place] for place in fit]
            problems, objective = neuron_problems(
                self.sampler,
                images,
                own,
                [after[place] for place in fit],
                self.objective([tasks[place] for place in fit], 0.0),
                self.spec.changing,
                seeds=[tasks[place].seed for place in fit],
                inversion=self.inversions.of([ids[place] for place in fit], images, own),
            )
            name = objective.name
            pictures = [Picture(image) for image in images]
            made = self.optimised(problems, objective, self.spec.changing, pictures)
        return after, list(loaded.everyone(made)), name

    def prompts(
        self, tasks: Sequence[NeuronTask], records: Sequence[ImageRecord]
    ) -> tuple[list[str], list[str]]:
        """What real images show, and what they should show."""
        captions = read_captions(self.lineage, [record.id for record in records])
        before = [
            captions.get(record.id)
            or prompt_for(self.spec.prompt_template, record.class_name or "thing")
            for record in records
        ]
        from whylens.guidance.neurons import leave_out

        # The class's own word stays: the question is whether the class is said without the feature.
        after = [
            leave_out(prompt, task.word)
            if self.spec.leave_out_word
            and task.kind == "down"
            and task.word
            and task.word != record.class_name
            else prompt
            for prompt, task, record in zip(before, tasks, records, strict=True)
        ]
        return before, after

    def objective(self, tasks: Sequence[NeuronTask], weight_log_p: float) -> FeatureObjective:
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

    def asked(self, task: NeuronTask, made: Made) -> list[str]:
        """The classes of which every classifier is asked: the neuron's, and those that are said."""
        names = self.classifier.class_names
        said = [
            int(picture.seen_by(self.classifier)[1].argmax())
            for picture in (made.before, made.after)
            if picture is not None
        ]
        return [names[k] for k in (task.neuron.class_index, *said)]

    def row(self, task: NeuronTask, made: Made) -> dict[str, Any]:
        """The columns that are this job's own."""
        row = {
            **columns_of(task, SCHEMA),
            "neuron": task.neuron.index,
            "class_index": task.neuron.class_index,
            "class_name": self.classifier.class_names[task.neuron.class_index],
            "mask": mask_png(made.solution.mask),
        }
        for picture, when in ((made.before, "before"), (made.after, "after")):
            if picture is not None:
                row[when] = picture.png
                row[f"activation_{when}"] = float(
                    picture.features(self.classifier)[task.neuron.index]
                )
        return row


def run(spec: NeuronsJobSpec) -> Run:
    """Show what neurons of a run's classifier respond to."""
    lineage = Lineage(Run.open(spec.source))
    models = Models(spec.sampler, str(lineage.setting("classifier")), spec.against)
    from whylens.classifiers import load_classifier

    check_names(classifiers=models.classifiers, sampler=spec.sampler)
    check(spec.neurons, load_classifier(models.classifier))
    with JOB.working(spec) as run, session() as ray:
        neurons(run, Lineage(run), spec.neurons, models.on(ray, spec.placement))
    return run


JOB = Job(
    name="neurons",
    help="What single features respond to, and images in which they rise or fall.",
    spec=NeuronsJobSpec,
    run=run,
    tables=(EXEMPLARS, WORDS, INVERSIONS, TABLE),
    part="whylens.jobs.report.parts.neurons:NEURONS",
)
