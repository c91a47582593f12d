"""Softmax and sigmoid heads: probabilities, losses and margins against plain formulas."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from whylens.classifiers import Classifier, load_classifier
from whylens.classifiers.activation import ACTIVATIONS, SIGMOID, SOFTMAX
from whylens.errors import UsageError
from whylens.guidance import Disagreement, TargetClass
from whylens.guidance.objectives.classes import AvoidClass

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 40.0, -3.0]], dtype=torch.float64)
TARGETS = torch.tensor([0, 1])


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_losses_are_those_of_the_probabilities(name: str) -> None:
    said = ACTIVATIONS[name]
    exp = LOGITS.exp()
    p = exp / exp.sum(1, keepdim=True) if name == "softmax" else exp / (1 + exp)
    assert torch.allclose(said(LOGITS), p)
    own = p[torch.arange(2), TARGETS]
    assert torch.allclose(said.p(LOGITS, TARGETS), own)
    assert torch.allclose(said.minus_log_p(LOGITS, TARGETS), -own.log())
    found = said.minus_log_not_p(LOGITS, TARGETS)
    assert torch.allclose(found[0], -(1 - own[0]).log())
    assert found[1] == pytest.approx(40, abs=0.05)  # where 1 - p_k rounds to 0


def test_margins_are_above_zero_where_the_class_is_said() -> None:
    assert SOFTMAX.margin(LOGITS, TARGETS).tolist() == [1.5, 40.0]
    assert SIGMOID.margin(LOGITS, TARGETS).tolist() == [2.0, 40.0]
    # Both may be said, of a sigmoid head: the second class here as well as the first.
    both = torch.tensor([[3.0, 1.0]])
    assert SIGMOID.margin(both, torch.tensor([1])) > 0 > SOFTMAX.margin(both, torch.tensor([1]))


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def sigmoid() -> Classifier:
    return load_classifier("planted:biased?probabilities=sigmoid")


def test_a_name_says_that_a_head_is_multi_label(sigmoid: Classifier, images: Tensor) -> None:
    plain = load_classifier("planted:biased")
    assert torch.equal(sigmoid.logits(images), plain.logits(images))
    assert torch.equal(sigmoid.probabilities(images), plain.logits(images).sigmoid())
    assert plain.activation is SOFTMAX


def test_a_temperature_divides_the_logits(images: Tensor) -> None:
    plain, warm = load_classifier("planted:biased"), load_classifier("planted:biased?temperature=2")
    assert torch.allclose(warm.logits(images), plain.logits(images) / 2, atol=1e-5)


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ("probabilities=relu", "probabilities are softmax or sigmoid, not 'relu'"),
        ("temperature=0", "a temperature is a number above 0, not '0'"),
        ("temperature=warm", "a temperature is a number above 0, not 'warm'"),
    ],
)
def test_what_a_head_cannot_be_is_refused(option: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        load_classifier(f"planted:biased?{option}")


def test_objectives_ask_a_sigmoid_head_for_its_own_p(sigmoid: Classifier, images: Tensor) -> None:
    plain = load_classifier("planted:biased")
    with torch.no_grad():
        f = plain.logits(images)[torch.arange(2), TARGETS]
        p = plain.probabilities(images)[torch.arange(2), TARGETS]

    def value(objective) -> Tensor:
        return objective.loss(images).detach()

    assert torch.allclose(value(TargetClass(sigmoid, TARGETS)), -f.sigmoid().log(), atol=1e-4)
    assert torch.allclose(value(TargetClass(sigmoid, TARGETS, "margin")), -f, atol=1e-5)
    avoid = value(AvoidClass(sigmoid, TARGETS, "probability"))
    assert torch.allclose(avoid, f.sigmoid(), atol=1e-6)
    mixed = value(Disagreement(sigmoid, plain, TARGETS, TARGETS))
    assert torch.allclose(mixed, p - f.sigmoid(), atol=1e-5)


def test_a_repaired_head_stays_multi_label(sigmoid: Classifier) -> None:
    from whylens.classifiers.repaired import repair

    assert repair(sigmoid, SimpleNamespace(arrays={})).activation is SIGMOID
