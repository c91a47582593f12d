"""Disagreement: what some classifiers see and others do not (DiG-IN, section 4)."""

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import NamedTuple

from torch import Tensor

from whylens.classifiers import Classifier
from whylens.classifiers.activation import SOFTMAX
from whylens.classifiers.elsewhere import Elsewhere
from whylens.errors import UsageError
from whylens.guidance.objectives.base import LocalObjective, Objective
from whylens.guidance.objectives.classes import (
    AVOIDED,
    SAID,
    AvoidClass,
    AvoidForm,
    Form,
    TargetClass,
    check_targets,
)
from whylens.guidance.settings import DisagreementForm
from whylens.kernels import disagreement


class Sides(NamedTuple):
    """A form's losses: of a classifier that says the class, and of one that does not."""

    said: Form
    avoided: AvoidForm


FORMS: dict[DisagreementForm, Sides] = {
    "probability": Sides("probability", "probability"),
    "log": Sides("cross_entropy", "cross_entropy"),
    "log_ratio": Sides("cross_entropy", "log_probability"),
    "margin": Sides("margin", "margin"),
}


class Disagreement(LocalObjective):
    """Classifier A says the class and classifier B does not.

    -p_k of A + p_k of B by default; form "log": -log p_k of A - log(1 - p_k) of B, which still
    pulls where a classifier is sure of the wrong answer; form "log_ratio": log p_k of B in place
    of that, as DiG-IN's code has it, which goes on pulling at B where its p_k is as good as zero;
    form "margin": A's and B's max_{j != k} f_j - f_k and its opposite, which pulls however sure
    they are.
    targets [B] are the class as each classifier numbers it.

    Raises
    ------
    UsageError
        If a classifier lacks a target.
    """

    def __init__(
        self,
        a: Classifier,
        b: Classifier,
        targets_a: Tensor,
        targets_b: Tensor,
        form: DisagreementForm = "probability",
    ) -> None:
        check_targets(a, targets_a)
        check_targets(b, targets_b)
        self.a, self.b, self.form = a, b, form
        self.targets_a, self.targets_b = targets_a, targets_b
        # The smaller one scales views as it scales images.
        self.view_size = max(a.image_size, b.image_size)

    @property
    def name(self) -> str:
        sides = FORMS[self.form]
        said, avoided = SAID[sides.said].symbol, AVOIDED[sides.avoided].symbol
        return f"{said} of {self.a.name} + {avoided} of {self.b.name}"

    @property
    def description(self) -> str:
        return f"the class is said by {self.a.name} and not by {self.b.name} ({self.form})"

    def loss(self, images: Tensor) -> Tensor:
        a, b = self.a.logits(images), self.b.logits(images)
        of_a, of_b = self.a.activation, self.b.activation
        if self.form in ("log", "log_ratio"):
            said = of_a.minus_log_p(a, self.targets_a)
            if self.form == "log_ratio":
                return said - of_b.minus_log_p(b, self.targets_b)
            return said + of_b.minus_log_not_p(b, self.targets_b)
        if self.form == "margin":
            return of_b.margin(b, self.targets_b) - of_a.margin(a, self.targets_a)
        if of_a.name == of_b.name == SOFTMAX.name:
            values: Tensor = disagreement(a, b, self.targets_a, self.targets_b)
            return values
        return of_b.p(b, self.targets_b) - of_a.p(a, self.targets_a)

    def select(self, rows: Tensor) -> Objective:
        return self._of_rows(rows, "targets_a", "targets_b")


class Vote(NamedTuple):
    """A classifier, and the problems' classes [B] as it numbers them."""

    classifier: Classifier
    targets: Tensor


def disagreement_among(
    says: Sequence[Vote], denies: Sequence[Vote], form: DisagreementForm = "probability"
) -> Objective:
    """Some classifiers say the class and others don't: the mean of both sides' losses, added.

    With one classifier on each side, both networks in this process and on one device, it is a
    `Disagreement`. Otherwise the classifiers' graphs are built and freed one after the other, each
    where its network is: an ensemble needs the memory of its largest member.

    Raises
    ------
    UsageError
        If no classifier is to say the class or none is not to, or one lacks a target.
    """
    if not says or not denies:
        raise UsageError(
            "a disagreement needs a classifier that says the class, and one that does not"
        )
    if len(says) == len(denies) == 1 and _together(says[0].classifier, denies[0].classifier):
        (a, of_a), (b, of_b) = says[0], denies[0]
        return Disagreement(a, b, of_a, of_b, form)
    sides = FORMS[form]
    parts = [
        (1 / len(says)) * TargetClass(vote.classifier, vote.targets, sides.said) for vote in says
    ]
    parts += [
        (1 / len(denies)) * AvoidClass(vote.classifier, vote.targets, sides.avoided)
        for vote in denies
    ]
    return reduce(add, parts)


def _together(a: Classifier, b: Classifier) -> bool:
    apart = isinstance(a, Elsewhere) or isinstance(b, Elsewhere)
    return not apart and a.device == b.device
