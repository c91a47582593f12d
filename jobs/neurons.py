"""The neurons job: what single features respond to, and what happens to images as they change.

A neuron is a feature phi_n. Its exemplars give words, plain images of each word are made, and from
the word that raises the neuron most, images are optimised. Real images are changed so that it rises
or falls: if a class is predicted only while what a neuron sees is there, that is spurious.
("DiG-IN", section 6.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from whylens.cluster.placement import Placement
from whylens.errors import UsageError
from whylens.guidance.settings import GuidanceSettings
from whylens.jobs import closest, opinions, trajectory
from whylens.jobs.embed import COLUMNS, Embedded, labels_used, read_embedded
from whylens.jobs.lineage import Lineage
from whylens.jobs.prompts import (
    FEATURE_TEMPLATES,
    PLAIN_TEMPLATE,
    FeatureTemplates,
    PromptTemplate,
    prompt_for,
)
from whylens.jobs.working import in_batches, work_through

if TYPE_CHECKING:
    import torch

    from whylens.classifiers import Classifier
    from whylens.guidance.optimiser import Solution
    from whylens.runs import Run

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
Kind = Literal["image", "up", "down"]


class NeuronSpec(BaseModel):
    """Which neurons are shown, and how."""

    model_config = ConfigDict(extra="forbid")

    neurons: list[int] = Field(
        default_factory=list,
        description="Features of phi by number; empty: those that carry most of the class logits "
        "of the findings, or of the classes where there are no findings.",
    )
    most: int = Field(4, ge=1, description="Choose at most this many neurons.")
    exemplars: int = Field(24, ge=1, description="Images that activate a neuron most, for words.")
    words: int = Field(4, ge=1, description="Words tried for a neuron.")
    samples: int = Field(3, ge=1, description="Plain images a word, to choose by.")
    images: int = Field(3, ge=0, description="Images optimised from a neuron's best word.")
    changed: int = Field(
        2,
        ge=0,
        description="Real images in which a neuron is raised, and as many in which it falls.",
    )
    batch: int = Field(6, ge=1, description="Images that are optimised together.")
    weight_log_p: float = Field(
        0.0,
        ge=0,
        description="Weight of the log probability of the neuron's class beside the neuron, in "
        "images from words.",
    )
    leave_out_word: bool = Field(
        False,
        description="Leave a neuron's word out of the caption of an image in which it falls. The "
        "edit of the caption then does most of the work, and says less of the neuron.",
    )
    prompt_template: PromptTemplate = PLAIN_TEMPLATE
    feature_templates: FeatureTemplates = FEATURE_TEMPLATES
    seed: int = Field(0, ge=0, description="Seed of a neuron's first image; the next adds one.")
    guidance: GuidanceSettings = Field(
        default_factory=GuidanceSettings.model_construct,
        description="How the images are optimised.",
    )


@dataclass(frozen=True)
class Neuron:
    """A neuron, and the class that it stands for.

    rank: of the finding that it carries, if it was chosen for one; share: what it adds to the
    class's logit on the images that show the finding (or the class), above the run's mean.
    """

    index: int
    class_index: int
    share: float
    rank: int | None = None


@dataclass(frozen=True)
class WordsUnit:
    """A neuron and the words that its exemplars suggest, each with its prompt."""

    name: str
    neuron: Neuron
    words: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class NeuronTask:
    """One image to make or to change; `image_id` is None where it starts from a word."""

    neuron: Neuron
    kind: Kind
    place: int
    seed: int
    mean: float
    deviation: float
    word: str | None = None
    prompt: str | None = None
    image_id: str | None = None


@dataclass(frozen=True)
class NeuronUnit:
    """A batch of images of one sort that are optimised together and written as one part."""

    name: str
    tasks: tuple[NeuronTask, ...]


def check(spec: NeuronSpec, classifier: Classifier) -> None:
    """Refuse neurons that the classifier lacks, before work is spent.

    Raises
    ------
    UsageError
        Naming the first of them.
    """
    size = classifier.feature_size
    wrong = [n for n in spec.neurons if not 0 <= n < size]
    if wrong:
        raise UsageError(
            f"neurons: {classifier.name} has {size} features, from 0 to {size - 1}: there is no "
            f"{wrong[0]}"
        )


def choose(
    embedded: Embedded,
    pools: Sequence[Embedded],
    findings: Sequence[Mapping[str, Any]],
    weight: np.ndarray,
    spec: NeuronSpec,
) -> list[Neuron]:
    """The neurons asked for, else those that carry most of what findings add to class logits.

    Neuron n adds w_kn (mean phi_n over the images mined for the finding - mean over all): the best
    of each finding by rank, none twice. Where there are no findings, the classes' own images stand
    for them, those classes first whose neuron adds most. `weight` is the head's [K, D].
    """
    size = weight.shape[1]
    overall = embedded.features.mean(0)
    if spec.neurons:
        asked = list(dict.fromkeys(spec.neurons))
        classes = [int(weight[:, n].argmax()) for n in asked]
        top = embedded.features.max(0)
        return [
            Neuron(n, k, float(weight[k, n] * (top[n] - overall[n])))
            for n, k in zip(asked, classes, strict=True)
        ]
    shares: list[tuple[int, int | None, np.ndarray]] = []
    for row in sorted(findings, key=lambda row: row["rank"]):
        k, wanted = int(row["class_index"]), set(row.get("mined_ids") or ())
        for pool in pools:
            shown = [place for place, image_id in enumerate(pool.ids) if image_id in wanted]
            if shown:
                gain = pool.features[shown].mean(0) - pool.features.mean(0)
                shares.append((k, int(row["rank"]), weight[k] * gain))
                break
    if not shares:
        labels = labels_used(embedded)
        shares = [
            (int(k), None, weight[k] * (embedded.features[labels == k].mean(0) - overall))
            for k in np.unique(labels[labels >= 0])
        ]
        shares.sort(key=lambda one: -float(one[2].max()))
    chosen: dict[int, Neuron] = {}
    for k, rank, share in shares:
        best = next(int(n) for n in np.argsort(-share, kind="stable") if int(n) not in chosen)
        chosen[best] = Neuron(best, k, float(share[best]), rank)
        if len(chosen) in (spec.most, size):
            break
    return list(chosen.values())


def suggested(
    neuron: Neuron, embedded: Embedded, class_names: Sequence[str], spec: NeuronSpec
) -> tuple[tuple[str, str], ...]:
    """Words of a neuron's exemplars with their prompts: of captions, and the commonest classes."""
    from whylens.guidance.neurons import mixed_exemplars
    from whylens.neural_pca import typical_words

    activations = embedded.features[:, neuron.index]
    top = mixed_exemplars(activations, labels_used(embedded), spec.exemplars)
    weights = np.zeros(len(activations))
    weights[top] = np.maximum(activations[top], 0)
    counts = Counter(labels_used(embedded)[top].tolist())
    classes = [class_names[k] for k, _ in counts.most_common() if k >= 0]
    words = [word for word, _ in typical_words(embedded.texts, weights, top=spec.words)]
    known = {name.casefold() for names in classes for name in names.split(",")}
    pairs = [
        (word, template.replace("{feature}", word))
        for word in words
        if word not in known
        for template in spec.feature_templates
    ]
    room = max(1, spec.words - len({word for word, _ in pairs}))
    pairs += [(name, prompt_for(spec.prompt_template, name)) for name in classes[:room]]
    return tuple(dict.fromkeys(pairs))


def to_change(neuron: Neuron, embedded: Embedded, spec: NeuronSpec) -> Iterator[tuple[Kind, str]]:
    """Real images whose neuron falls ("down") or rises ("up"): kind and image id.

    Down: the images that are called the neuron's class and activate it most. Up: images that are
    not, drawn from the half that activates it least; where it is exactly 0 (behind a ReLU) there is
    no gradient to follow, so those come last.
    """
    activations = embedded.features[:, neuron.index]
    order = np.argsort(-activations, kind="stable")
    called = embedded.predicted[order] == neuron.class_index
    for row in [*order[called], *order[~called]][: spec.changed]:
        yield "down", embedded.ids[row]
    quiet = order[len(order) // 2 :]
    quiet = quiet[embedded.predicted[quiet] != neuron.class_index]
    rng = np.random.default_rng((spec.seed, neuron.index))
    quiet = rng.permutation(quiet)
    followed = activations[quiet] != 0
    for row in [*quiet[followed], *quiet[~followed]][: spec.changed]:
        yield "up", embedded.ids[int(row)]


def plan(
    neurons: Sequence[Neuron],
    best: Mapping[int, tuple[str, str]],
    embedded: Embedded,
    spec: NeuronSpec,
) -> list[NeuronUnit]:
    """The units: images from words in some, changed images in others.

    `best` is word and prompt by neuron; a neuron whose words' unit failed has none, and no image.
    """
    made, changes = [], []
    for neuron in neurons:
        activations = embedded.features[:, neuron.index]
        task = NeuronTask(
            neuron,
            "image",
            0,
            spec.seed,
            float(activations.mean()),
            float(activations.std()) or 1.0,
        )
        if neuron.index in best:
            task = replace(task, word=best[neuron.index][0])
            made += [
                replace(task, place=place, seed=spec.seed + place, prompt=best[neuron.index][1])
                for place in range(spec.images)
            ]
        changes += [
            replace(task, kind=kind, place=place, seed=spec.seed + place, image_id=image_id)
            for place, (kind, image_id) in enumerate(to_change(neuron, embedded, spec))
        ]
    return [
        NeuronUnit(f"{sort}-{name}", tasks)
        for sort, group in (("images", made), ("changes", changes))
        for name, tasks in in_batches(group, spec.batch, spec)
    ]


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
        from whylens.jobs.pictures import measured, png

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

        self.run, self.spec = run, spec
        self.collection = open_collection(str(lineage.setting("images")))
        self.records = {record.id: record for record in self.collection.records}
        self.sampler = load_sampler(sampler, device)
        self.classifier = load_classifier(classifier, device)
        others = {name: load_classifier(name, device) for name in against}
        self.classifiers = {classifier: self.classifier, **others}
        self.closest = closest.Closest(lineage, self.classifier)

    def __call__(self, unit: NeuronUnit) -> int:
        """Optimise the unit's images; how many."""
        tasks = unit.tasks
        way = trajectory.Trajectory(self.spec.guidance.optimisation_steps)
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
        from whylens.images.tensors import to_tensor

        records = [self.records[str(task.image_id)] for task in tasks]
        images = torch.stack(
            [to_tensor(self.collection.load(r), self.sampler.image_size) for r in records]
        ).to(self.sampler.device)
        prompts = [
            record.caption or prompt_for(self.spec.prompt_template, record.class_name or "thing")
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
        solutions = neuron_counterfactual(
            self.sampler,
            images,
            prompts,
            after,
            self.objective(tasks, 0.0),
            self.spec.guidance,
            seeds=[task.seed for task in tasks],
            on_step=way.on_step,
        )
        return images, after, solutions

    def objective(self, tasks: Sequence[NeuronTask], weight_log_p: float) -> Any:
        """-phi_n where a neuron is to rise, phi_n where it is to fall, in standard deviations."""
        import torch

        from whylens.guidance.neurons import FeatureObjective

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
        from whylens.jobs.pictures import difference, measured, png

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
