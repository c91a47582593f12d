"""Neurons: single features, what they respond to, and images in which they rise or fall."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from whylens.jobs.report.optimisation import Optimisation, optimisation_of
from whylens.jobs.report.part import Pair, Part, RunData, Use
from whylens.jobs.report.tables import grouped, rows_of, value
from whylens.jobs.words import amount, percent
from whylens.runs.lineage import Lineage

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class NeuronExemplar:
    """A real image in which a neuron is strong, by its activation or by its relevance.

    The class is the one that is said of it, to whose logit the neuron adds its relevance.
    """

    by: str
    image_id: str
    class_name: str
    activation: float | None
    relevance: float | None
    thumb: bytes | None


@dataclass(frozen=True)
class NeuronWord:
    """A word of a neuron's exemplars, plain images of it, and their mean activation."""

    word: str
    prompt: str
    images: tuple[bytes, ...]
    activation: float | None
    chosen: bool


@dataclass(frozen=True)
class NeuronImage:
    """An image in which a neuron was raised or lowered; `kind` is image, up or down."""

    kind: str
    image_id: str | None
    prompt: str
    before: bytes | None
    after: bytes | None
    difference: bytes | None
    activation_before: float | None
    activation_after: float | None
    failed: str | None
    optimisation: Optimisation = field(default_factory=Optimisation)


@dataclass(frozen=True)
class Neuron:
    """A feature phi_n: its words and its images; `mean` and `deviation` over the run's images."""

    index: int
    class_name: str
    rank: int | None
    share: float | None
    mean: float | None
    deviation: float | None
    words: tuple[NeuronWord, ...]
    images: tuple[NeuronImage, ...]
    exemplars: tuple[NeuronExemplar, ...] = ()

    @property
    def word(self) -> str | None:
        """The word that raises it most."""
        return next((word.word for word in self.words if word.chosen), None)

    @property
    def top(self) -> float:
        """The highest activation that is shown, > 0: the length of a full bar."""
        levels = [one.activation for one in self.words]
        levels += [
            level for i in self.images for level in (i.activation_before, i.activation_after)
        ]
        return max((level for level in levels if level is not None and level > 0), default=1.0)


def load_neurons(run: Lineage) -> tuple[Neuron, ...]:
    """The neurons, in the order of the findings that they carry, then by number."""
    words, images, exemplars = (
        grouped(rows_of(run, name), lambda row: int(row["neuron"]))
        for name in ("neuron_words", "neurons", "neuron_exemplars")
    )
    found = (
        _neuron(index, *(of.get(index, []) for of in (words, images, exemplars)))
        for index in words | images
    )
    return tuple(sorted(found, key=lambda one: (one.rank is None, one.rank or 0, one.index)))


def _neuron(index: int, words: Rows, images: Rows, exemplars: Rows) -> Neuron:
    # Only rows of images have the scale.
    row = {**(images or [{}])[0], **(words or [{}])[0]}
    return value(
        Neuron,
        row,
        index=index,
        class_name=str(row.get("class_name") or row.get("class_index")),
        words=tuple(value(NeuronWord, one) for one in words),
        images=tuple(value(NeuronImage, one, optimisation=optimisation_of(one)) for one in images),
        exemplars=tuple(value(NeuronExemplar, one) for one in exemplars),
    )


def neuron_summary(neuron: Neuron) -> list[str]:
    """What was seen of a neuron, in sentences."""
    sentences = []
    if neuron.share is not None:
        where = (
            f"on images that show finding {neuron.rank}"
            if neuron.rank is not None
            else "where it is strong"
        )
        sentences.append(
            f"It adds {neuron.share:.2f} to the {neuron.class_name} score {where}, above the mean "
            "of all images."
        )
    for kind, verb in (("down", "Lowering"), ("up", "Raising")):
        seen = [
            opinion
            for image in neuron.images
            if image.kind == kind
            for opinion in image.optimisation.opinions[:1]
            if opinion.before is not None and opinion.after is not None
        ]
        if seen:
            before = sum(one.before or 0.0 for one in seen) / len(seen)
            after = sum(one.after or 0.0 for one in seen) / len(seen)
            sentences.append(
                f"{verb} it in {amount(len(seen), 'real image')} moved the mean "
                f"{neuron.class_name} probability from {percent(before)} to {percent(after)}."
            )
    return sentences


def _pairs(neurons: Sequence[Neuron]) -> Iterable[Pair]:
    for neuron in neurons:
        for one in neuron.images:
            before, after = one.activation_before, one.activation_after
            if one.before and one.after and before is not None and after is not None:
                word = f", {neuron.word}" if neuron.word else ""
                arrow = {"up": " ↑", "down": " ↓"}.get(one.kind, "")
                told = f"φ {before:.2f} → {after:.2f}"
                yield Pair(f"neuron {neuron.index}{word}{arrow}", one.before, one.after, told)


def _headline(data: RunData) -> str:
    count = len(data[NEURONS])
    verb = "responds" if count == 1 else "respond"
    return f"What {amount(count, 'neuron')} of the classifier {verb} to"


NEURONS = Part(
    name="neurons",
    title="Neurons",
    tables=("neuron_exemplars", "neuron_words", "neurons"),
    read=load_neurons,
    place=40,
    empty=lambda data: "No neurons: start `whylens neurons` with this run as its source.",
    headline=_headline,
    template="neurons.html.j2",
    words={"neuron_summary": neuron_summary},
    use=Use("Neurons", "what a single feature\nresponds to", _pairs, place=40),
)
