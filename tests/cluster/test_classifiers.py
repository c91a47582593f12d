"""A classifier in an actor says what it says beside the sampler; here the actor is a thread's."""

import asyncio
import pickle
import threading
from concurrent.futures import Future
from types import SimpleNamespace

import pytest
import ray
import torch
from ray import cloudpickle

from whylens.classifiers import load_classifier
from whylens.classifiers.heatmap import component_heatmap
from whylens.cluster import classifiers
from whylens.cluster.classifiers import Card, ClassifierActor, RemoteClassifier
from whylens.guidance.objectives import (
    AvoidClass,
    ComponentObjective,
    Disagreement,
    FeatureDistance,
    PixelDistance,
    TargetClass,
    Vote,
    disagreement_among,
)

ROWS = torch.arange(4)
ANSWERED = classifiers.answered


@pytest.fixture(scope="module")
def images():
    return torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def actors():
    """Two classifiers' actors in event loops of their own; what they are sent is pickled."""
    loops, made = [], {}
    for name in ("planted:biased", "planted:balanced"):
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, daemon=True).start()
        loops.append(loop)
        made[name] = Stand(ClassifierActor(name, "cpu"), loop)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifiers, "answered", lambda ask: ask().result(60))
        yield made
    for loop in loops:
        loop.call_soon_threadsafe(loop.stop)


class Stand:
    """Stands in for an actor's handle: `ask.remote` returns a future."""

    def __init__(self, actor, loop):
        self.actor, self.loop = actor, loop
        self.ask = SimpleNamespace(remote=self._ask)

    def sent(self, *arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(classifiers, "_here", self.actor)
            return pickle.loads(cloudpickle.dumps(arguments))

    def _ask(self, *arguments) -> Future:
        return asyncio.run_coroutine_threadsafe(self.actor.ask(*self.sent(*arguments)), self.loop)

    def at_once(self, questions):
        """Answers to questions that come in one after the other, before any is answered."""

        async def asked():
            return await asyncio.gather(*(self.actor.ask(*sent) for sent in given))

        given = [self.sent(*question) for question in questions]
        return asyncio.run_coroutine_threadsafe(asked(), self.loop).result(60)


def both(actors, name="planted:biased"):
    """A classifier, and the same in an actor."""
    here = load_classifier(name)
    return here, RemoteClassifier(Card.of(here), actors[name])


def close(found, wanted):
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda c, x: TargetClass(c, ROWS),
        lambda c, x: 0.5 * AvoidClass(c, ROWS, "margin") + PixelDistance(x.flip(0)),
        lambda c, x: FeatureDistance(c, x.flip(0)),
        lambda c, x: ComponentObjective(
            c, c.head.weight[:4], c.head.bias[:4], weight_log_p=0.1, classes=ROWS
        ),
    ],
)
def test_an_objective_goes_to_its_classifier(actors, images, make):
    here, there = both(actors)
    alone, sent = make(here, images), make(there, images)
    assert sent.name == alone.name
    for rows in (ROWS, torch.tensor([2, 0, 2])):
        some = images[rows]
        close(
            sent.select(rows).value_and_gradient(some), alone.select(rows).value_and_gradient(some)
        )
        close([sent.select(rows).value_only(some)], [alone.select(rows).value_only(some)])


def test_two_classifiers_that_part_may_each_be_anywhere(actors, images):
    (a, far_a), (b, far_b) = both(actors), both(actors, "planted:balanced")
    together = Disagreement(a, b, ROWS, ROWS)
    wanted = together.value_and_gradient(images)
    for one, other in ((far_a, b), (far_a, far_b), (a, b)):
        apart = disagreement_among([Vote(one, ROWS)], [Vote(other, ROWS)])
        assert apart.name == together.name
        close(apart.value_and_gradient(images), wanted)


def test_the_rest_of_a_classifier_is_the_same(actors, images):
    here, there = both(actors)
    close([there.probabilities(images)], [here.probabilities(images)])
    assert there.fingerprint == here.fingerprint
    assert there.class_index("fish") == here.class_index("fish")
    direction = here.head.weight[3].detach()
    close(
        [component_heatmap(there, images, direction)], [component_heatmap(here, images, direction)]
    )


def test_questions_that_wait_are_answered_by_one_pass(actors, images, monkeypatch):
    here, there = both(actors)
    seen, forward = [], ClassifierActor._together

    def together(self, places, arguments):
        seen.append(len(places))
        return forward(self, places, arguments)

    monkeypatch.setattr(ClassifierActor, "_together", together)
    made = [lambda c: TargetClass(c, ROWS), lambda c: FeatureDistance(c, images)] * 3
    pixels, question = images.flip(0), classifiers.value_and_gradient
    questions = [(question, make(there), pixels.numpy()) for make in made]
    answers = actors["planted:biased"].at_once(questions)
    assert seen == [6]
    for found, make in zip(answers, made, strict=True):
        close(map(torch.tensor, found), make(here).value_and_gradient(pixels))


def test_an_error_is_its_questions_own(actors, images):
    _, there = both(actors)
    good, bad = TargetClass(there, ROWS), TargetClass(there, ROWS).select(ROWS[:2])
    ask = actors["planted:biased"].ask.remote
    pixels = images.numpy()
    futures = [ask(classifiers.value_and_gradient, one, pixels) for one in (good, good, bad, good)]
    with pytest.raises((RuntimeError, ValueError)):
        futures[2].result(60)
    for k in (0, 1, 3):
        close(map(torch.tensor, futures[k].result(60)), good.value_and_gradient(images))


@pytest.fixture
def away(monkeypatch):
    """Asks an actor that can't be reached for so many seconds; how often it was asked."""
    slept = []
    clock = SimpleNamespace(monotonic=lambda: 100 + sum(slept), sleep=slept.append)
    monkeypatch.setattr(classifiers, "time", clock)

    def ask(seconds):
        def get(reference, timeout):
            if sum(slept) < seconds:
                raise ray.exceptions.ActorUnavailableError("connection refused", None)
            return reference

        monkeypatch.setattr(ray, "get", get)
        return ANSWERED(lambda: len(slept) + 1)

    return ask


def test_an_actor_that_is_out_of_reach_for_a_moment_is_asked_again(away):
    assert away(3.0) == 4


def test_an_actor_that_stays_out_of_reach_is_an_error(away):
    with pytest.raises(ray.exceptions.ActorUnavailableError):
        away(1000.0)
