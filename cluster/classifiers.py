"""Classifiers as actors with resources of their own, which answer the workers of all stages.

An objective goes to its classifier and comes back as values and a gradient an image: what crosses,
through Ray's object store, is one image-sized tensor each way. While an actor computes, the
questions of other samplers gather; the next forward and backward pass is of all of them. An actor
that dies is started again by Ray, and asked again: answers depend on questions alone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from whylens.classifiers import Classifier, Head, load_classifier
from whylens.classifiers.activation import Activation
from whylens.classifiers.elsewhere import Elsewhere
from whylens.cluster.placement import Placement
from whylens.cluster.room import sizes
from whylens.cluster.session import hired
from whylens.cluster.workers import Served, environment
from whylens.errors import WhylensError
from whylens.guidance.objectives import ClassifierObjective
from whylens.guidance.objectives.base import value_and_gradient
from whylens.guidance.views import AT_ONCE
from whylens.images.eval_transform import EvalTransform

logger = logging.getLogger(__name__)

# A question that takes down its actor so often fails its unit.
MAX_DEATHS = 4
SECONDS_BETWEEN_LINES = 30.0
# For so long it may be out of reach.
SECONDS_AWAY = 60.0

# The actor of this process, where it is one's.
_here: ClassifierActor | None = None


@dataclass(frozen=True)
class Card:
    """What is known of a classifier without its network; head: W [K, D] and b [K]."""

    name: str
    class_names: tuple[str, ...]
    image_size: int
    eval_transform: EvalTransform
    activation: Activation
    head: tuple[np.ndarray, np.ndarray]
    fingerprint: str

    @classmethod
    def of(cls, classifier: Classifier) -> Card:
        """Of a classifier that is loaded."""
        head = classifier.head
        weight, bias = (t.detach().cpu().numpy() for t in (head.weight, head.bias))
        return cls(
            classifier.name,
            classifier.class_names,
            classifier.image_size,
            classifier.eval_transform,
            classifier.activation,
            (weight, bias),
            classifier.fingerprint,
        )


class RemoteClassifier(Elsewhere):
    """A classifier whose network is in an actor; its head is here, on the device of what asks."""

    def __init__(self, card: Card, actor: Any, device: str | torch.device = "cpu") -> None:
        super().__init__(
            card.name, card.class_names, card.image_size, card.eval_transform, card.activation
        )
        weight, bias = (torch.tensor(part, device=device) for part in card.head)
        self._head, self._fingerprint, self._actor = Head(weight, bias), card.fingerprint, actor

    @property
    def head(self) -> Head:
        return self._head

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def asked(self, question: Callable[..., Any], *arguments: Any) -> Any:
        sent = [_sent(one) for one in arguments]
        return _received(answered(lambda: self._actor.ask.remote(question, *sent)), self.device)

    def __reduce__(self) -> tuple[Any, ...]:
        """Sent to its own actor, which is where alone it is sent, it is the classifier there."""
        return _of_this_process, ()


def _of_this_process() -> Classifier:
    assert _here is not None, "a remote classifier is sent to its own actor only"
    return _here.classifier


def answered(ask: Callable[[], Any]) -> Any:
    """What an actor answers; while it is started again, or has no room yet, that is said.

    An actor whose node just went can't be reached until it is elsewhere: it is asked anew.
    """
    import ray

    reference, given_up = ask(), None
    while True:
        try:
            return ray.get(reference, timeout=SECONDS_BETWEEN_LINES)
        except ray.exceptions.GetTimeoutError:
            logger.info("waiting for an answer of a classifier's actor")
        except ray.exceptions.ActorUnavailableError:
            given_up = given_up or time.monotonic() + SECONDS_AWAY
            if time.monotonic() > given_up:
                raise
            logger.info("a classifier's actor can't be reached; it is asked again")
            time.sleep(1)
            reference = ask()


class _Question(NamedTuple):
    ask: Callable[..., Any]
    arguments: Sequence[Any]
    answer: asyncio.Future[Any]


class ClassifierActor:
    """Holds one classifier and answers questions about it, those that wait together at once."""

    def __init__(self, name: str, device: str) -> None:
        global _here
        _here, self._name, self._device = self, name, device
        self._waiting: list[_Question] = []
        self._work: asyncio.Task[None] | None = None

    @cached_property
    def classifier(self) -> Classifier:
        """The classifier; an actor that was started again has to load it first."""
        return load_classifier(self._name, self._device)

    async def card(self) -> tuple[Card, str] | WhylensError:
        """The classifier's card and its node, or why it can't be loaded."""
        import ray

        try:
            card = await asyncio.to_thread(lambda: Card.of(self.classifier))
        except WhylensError as error:
            return error
        return card, ray.get_runtime_context().get_node_id()

    async def ask(self, question: Callable[..., Any], *arguments: Any) -> Any:
        """`question(*arguments)`, arrays of arguments and answers in the place of tensors."""
        asked = _Question(question, arguments, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._answer_all())
        return await asked.answer

    async def _answer_all(self) -> None:
        while self._waiting:
            asked, self._waiting = self._waiting, []
            found = await asyncio.to_thread(self._answers, asked)
            for one, answer in zip(asked, found, strict=True):
                if isinstance(answer, Exception):
                    one.answer.set_exception(answer)
                else:
                    one.answer.set_result(answer)

    def _answers(self, asked: Sequence[_Question]) -> list[Any]:
        """An answer or an exception each."""
        found: dict[int, Any] = {}
        try:
            device = self.classifier.device
        except Exception as error:
            return [error for _ in asked]
        arguments = [[_received(one, device) for one in question.arguments] for question in asked]
        together = defaultdict[tuple[int, ...], list[int]](list)
        for place, question in enumerate(asked):
            if question.ask is value_and_gradient:
                together[arguments[place][1].shape[1:]].append(place)
        for places in together.values():
            for some in _in_parts(
                places,
                [len(arguments[p][1]) for p in places],
                AT_ONCE // arguments[places[0]][1][0, 0].numel(),
            ):
                found |= self._together(some, arguments)
        for place, question in enumerate(asked):
            if place not in found:
                try:
                    found[place] = question.ask(*arguments[place])
                except Exception as error:
                    found[place] = error
        return [_sent(found[place]) for place in range(len(asked))]

    def _together(
        self, places: Sequence[int], arguments: Sequence[Sequence[Any]]
    ) -> Mapping[int, Any]:
        """Values and gradients of several objectives, by one forward and one backward pass.

        Nothing where that fails: each is then asked alone, and has an error of its own.
        """
        if len(places) == 1:
            return {}
        try:
            with torch.enable_grad():
                pixels = [arguments[p][1].detach().requires_grad_(True) for p in places]
                features = self.classifier.features(torch.cat(pixels))
                parts = torch.split(features, [len(part) for part in pixels])
                values = []
                for place, images, phi in zip(places, pixels, parts, strict=True):
                    objective: Any = copy(arguments[place][0])
                    objective.classifier = _Seen(self.classifier, images, phi)
                    values.append(objective.loss(images))
                gradients = torch.autograd.grad(torch.cat(values).sum(), pixels)
        except Exception:
            logger.warning("questions that can't be answered together are answered one by one")
            return {}
        told = zip(values, gradients, strict=True)
        return {place: (v.detach(), g) for place, (v, g) in zip(places, told, strict=True)}


class _Seen:
    """A classifier that has seen the images already: their features are there."""

    def __init__(self, classifier: Classifier, images: Tensor, features: Tensor) -> None:
        self._classifier, self._images, self._features = classifier, images, features

    def __getattr__(self, name: str) -> Any:
        return getattr(self._classifier, name)

    def features(self, images: Tensor) -> Tensor:
        return self._features if images is self._images else self._classifier.features(images)

    def logits(self, images: Tensor) -> Tensor:
        return self._classifier.head(self.features(images))


def _in_parts(places: Sequence[int], sizes: Sequence[int], most: int) -> Iterator[list[int]]:
    """Places one after the other, in parts of which each has `most` images at most, or is one."""
    part: list[int] = []
    held = 0
    for place, size in zip(places, sizes, strict=True):
        if part and held + size > most:
            yield part
            part, held = [], 0
        part.append(place)
        held += size
    yield part


def _sent(value: Any) -> Any:
    """Tensors as arrays, which Ray keeps in its object store and does not copy on a node."""
    if isinstance(value, Tensor):
        plain = value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
        return plain.detach().cpu().numpy()
    if isinstance(value, ClassifierObjective):
        return value.to("cpu")
    return tuple(map(_sent, value)) if isinstance(value, tuple) else value


def _received(value: Any, device: torch.device) -> Any:
    if isinstance(value, np.ndarray):  # of the object store, which is not to be written
        return torch.tensor(value, device=device)
    if isinstance(value, ClassifierObjective):
        return value.to(device)
    return tuple(_received(one, device) for one in value) if isinstance(value, tuple) else value


def serve(ray: Any, names: Sequence[str], placement: Placement) -> dict[str, Any]:
    """Actors of the classifiers, which live as long as the session: those that are there, or new
    ones. Idle workers make room for them.

    Raises
    ------
    WhylensError
        If a classifier can't be loaded.
    UsageError
        If the cluster has no room for one, and will have none.
    """
    with hired(ray) as crew:
        own = placement.of_classifiers
        for name in names:
            if name in crew.classifiers:
                continue
            sizes(ray, own, 1)
            crew.dismiss(ray)
            actor = ray.remote(ClassifierActor).options(
                name=actor_name(name), **own.options, runtime_env=environment(own),
                max_restarts=-1, max_task_retries=MAX_DEATHS,
            ).remote(name, own.device)  # fmt: skip
            told = answered(actor.card.remote)
            if isinstance(told, WhylensError):
                ray.kill(actor)
                raise told
            _, node = told
            crew.classifiers[name] = Served(actor, node, own.booked)
            logger.info("the classifier %s answers as the actor %s", name, actor_name(name))
        return {name: crew.classifiers[name].actor for name in names}


def actor_name(classifier: str) -> str:
    """What Ray calls the actor of a classifier, within the job's namespace."""
    return f"classifier {classifier}"


def connected(actor: Any, device: str) -> RemoteClassifier:
    """The classifier that an actor holds, for tensors on a device of this process."""
    told = answered(actor.card.remote)
    if isinstance(told, WhylensError):
        raise told
    return RemoteClassifier(told[0], actor, device)
