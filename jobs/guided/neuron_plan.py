"""Which neurons are shown, by what words and on which images: the neurons job's spec and units."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field, field_validator

from whylens.errors import UsageError
from whylens.guidance.settings import GuidanceSettings
from whylens.jobs.guided.prompts import (
    FEATURE_TEMPLATES,
    PLAIN_TEMPLATE,
    FeatureTemplates,
    PromptTemplate,
    prompt_for,
)
from whylens.jobs.images.embedded import Embedded, labels_used
from whylens.jobs.spec import StageSettings, onto
from whylens.jobs.stage import Batch, BatchSize, in_batches

if TYPE_CHECKING:
    from whylens.classifiers import Classifier

Kind = Literal["image", "up", "down"]
# By which exemplars are the strongest images (`strengths`).
By = Literal["activation", "relevance"]

# Defaults of `changing`. On the planted world's neurons, moving latents leaves what a neuron sees
# in a third of the images in which it is silent: a little noise silences it. Words and strong views
# do not.
CHANGING: dict[str, Any] = {
    "optimiser": {"latents_factor": 0.0, "learning_rate": 0.05},
    "views": {"noise": 0.1},
    "regularisers": {"pixels": 1.0},
    "editing": {"mask": "none"},
}


class NeuronSpec(StageSettings):
    """Which neurons are shown, and how."""

    neurons: list[int] = Field(
        [],
        description="Features of phi by number; empty: those that carry most of the class logits "
        "of the findings, or of the classes where there are no findings.",
    )
    most: int = Field(4, ge=1, description="Choose at most this many neurons.")
    exemplars: int = Field(
        24, ge=1, description="Images in which a neuron is strongest, which give words."
    )
    exemplars_by: By = Field(
        "activation",
        description="Strongest by what: activation, the neuron's own; or relevance, what it adds "
        "to the logit of the class that is said. Both are shown.",
    )
    words: int = Field(4, ge=1, description="Words tried for a neuron.")
    samples: int = Field(3, ge=1, description="Plain images a word, to choose by.")
    images: int = Field(3, ge=0, description="Images optimised from a neuron's best word.")
    changed: int = Field(
        2,
        ge=0,
        description="Real images in which a neuron is raised, and as many in which it falls.",
    )
    batch: BatchSize = 6
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
        GuidanceSettings(),
        description="How images are optimised from words.",
    )
    changing: Annotated[GuidanceSettings, onto(CHANGING)] = Field(
        GuidanceSettings.model_validate(CHANGING),
        description="How real images are changed: by their text alone, seen under strong noise. "
        "With editing.mask = attention only where a falling neuron looks, which suits things in a "
        "corner, not what fills an image.",
    )

    @field_validator("changing")
    @classmethod
    def _masks_of_neurons(cls, changing: GuidanceSettings) -> GuidanceSettings:
        if changing.editing.mask == "given":
            raise ValueError(
                "editing.mask is given, but neurons take no given masks: attention lets a falling "
                "neuron's image change where the neuron looks, none anywhere"
            )
        return changing


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


def strengths(neuron: Neuron, embedded: Embedded, weight: np.ndarray) -> dict[By, np.ndarray]:
    """How strong a neuron is in each image, [N], by its activation and by its relevance.

    Relevance is w_kn phi_n, k the class that is said of the image: what the neuron adds to that
    logit, which is all of a linear head's layer-wise relevance (Achtibat et al. 2023, "From
    attribution maps to human-understandable explanations through concept relevance propagation":
    exemplars that activate a neuron most need not be those in which it counts). `weight` is the
    head's [K, D].
    """
    activations = embedded.features[:, neuron.index]
    return {
        "activation": activations,
        "relevance": weight[embedded.predicted, neuron.index] * activations,
    }


def suggested(
    strength: np.ndarray, embedded: Embedded, class_names: Sequence[str], spec: NeuronSpec
) -> tuple[tuple[str, str], ...]:
    """Words of a neuron's exemplars with their prompts: of captions, and the commonest classes.

    `strength` [N] is the neuron's in each image.
    """
    from whylens.guidance.neurons import mixed_exemplars
    from whylens.neural_pca import typical_words

    top = mixed_exemplars(strength, labels_used(embedded), spec.exemplars)
    weights = np.zeros(len(strength))
    weights[top] = np.maximum(strength[top], 0)
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
) -> list[Batch[NeuronTask]]:
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
        Batch(f"{sort}-{name}", tasks)
        for sort, group in (("images", made), ("changes", changes))
        for name, tasks in in_batches(group, spec.batch, spec)
    ]
