"""A class that a classifier is to say, or not to say."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from whylens.classifiers import Classifier
from whylens.errors import UsageError
from whylens.guidance.objectives.base import ClassifierObjective, Objective

Form = Literal["cross_entropy", "probability", "margin"]
AvoidForm = Literal[Form, "log_probability"]


class Told(NamedTuple):
    """A loss as a formula, and in words."""

    symbol: str
    words: str


SAID: dict[Form, Told] = {
    "cross_entropy": Told("-log p", "the cross-entropy"),
    "probability": Told("-p", "minus the probability"),
    "margin": Told("-margin", "minus the margin of logits"),
}
AVOIDED: dict[AvoidForm, Told] = {
    "cross_entropy": Told("-log(1 - p)", "the cross-entropy to all but the class, -log(1 - p),"),
    "probability": Told("p", "the probability"),
    "log_probability": Told("log p", "the log probability"),
    "margin": Told("margin", "the margin of logits"),
}


class TargetClass(ClassifierObjective):
    """Cross-entropy to the target, -log p_k; -p_k itself; or the margin of logits.

    targets [B] are the classifier's class indices. The margin is max_{j != k} f_j - f_k, below zero
    where the classifier says k; of a sigmoid head it is -f_k.

    Raises
    ------
    UsageError
        If the classifier lacks a target.
    """

    def __init__(
        self, classifier: Classifier, targets: Tensor, form: Form = "cross_entropy"
    ) -> None:
        check_targets(classifier, targets)
        self.classifier, self.targets, self.form = classifier, targets, form
        self.view_size = classifier.image_size

    @property
    def name(self) -> str:
        return f"{SAID[self.form].symbol} of {self.classifier.name}"

    @property
    def description(self) -> str:
        return f"{SAID[self.form].words} of the target class by {self.classifier.name}"

    def loss(self, images: Tensor) -> Tensor:
        logits, says = self.classifier.logits(images), self.classifier.activation
        if self.form == "cross_entropy":
            return says.minus_log_p(logits, self.targets)
        if self.form == "margin":
            return -says.margin(logits, self.targets)
        return -says.p(logits, self.targets)

    def select(self, rows: Tensor) -> Objective:
        return self._of_rows(rows, "targets")


class AvoidClass(ClassifierObjective):
    """A class that is not to be said: -log(1 - p_k), p_k, log p_k, or f_k - max_{j != k} f_j.

    targets [B] and errors as for `TargetClass`.
    """

    def __init__(
        self, classifier: Classifier, targets: Tensor, form: AvoidForm = "cross_entropy"
    ) -> None:
        check_targets(classifier, targets)
        self.classifier, self.targets, self.form = classifier, targets, form
        self.view_size = classifier.image_size

    @property
    def name(self) -> str:
        return f"{AVOIDED[self.form].symbol} of {self.classifier.name}"

    @property
    def description(self) -> str:
        return f"{AVOIDED[self.form].words} of the class to avoid by {self.classifier.name}"

    def loss(self, images: Tensor) -> Tensor:
        logits, says = self.classifier.logits(images), self.classifier.activation
        if self.form == "cross_entropy":
            return says.minus_log_not_p(logits, self.targets)
        if self.form == "margin":
            return says.margin(logits, self.targets)
        if self.form == "log_probability":
            return -says.minus_log_p(logits, self.targets)
        return says.p(logits, self.targets)

    def select(self, rows: Tensor) -> Objective:
        return self._of_rows(rows, "targets")


def targets_of(classifier: Classifier, names: Sequence[str | int]) -> Tensor:
    """Class indices [B] by name, synonym or number, on the classifier's device.

    Raises
    ------
    UsageError
        If the classifier has no such class; near names are listed.
    """
    found = [classifier.class_index(name) for name in names]
    return torch.tensor(found, dtype=torch.int64, device=classifier.device)


def check_targets(classifier: Classifier, targets: Tensor) -> None:
    """UsageError where a target is none of the classifier's classes."""
    count = len(classifier.class_names)
    for row, target in enumerate(targets.tolist()):
        if not 0 <= target < count:
            raise UsageError(
                f"{classifier.name} lacks the class {target} that image {row} is to be led to: it "
                f"has the classes 0 to {count - 1}"
            )
