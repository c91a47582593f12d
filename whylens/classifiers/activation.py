"""From logits to probabilities: one class of all (softmax), or each class by itself (sigmoid)."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F


class Activation(ABC):
    """What a head's logits f [B, K] mean; targets [B] are class indices k."""

    name: str
    # What a reader of the classifier's probabilities should know; after the classifier's name.
    remark = ""

    @abstractmethod
    def __call__(self, logits: Tensor) -> Tensor:
        """Logits [..., K] -> probabilities [..., K]."""

    @abstractmethod
    def minus_log_p(self, logits: Tensor, targets: Tensor) -> Tensor:
        """-log p_k, [B]: the cross-entropy to the target."""

    @abstractmethod
    def minus_log_not_p(self, logits: Tensor, targets: Tensor) -> Tensor:
        """-log(1 - p_k), [B], finite where p_k rounds to 1."""

    @abstractmethod
    def margin(self, logits: Tensor, targets: Tensor) -> Tensor:
        """By how much the classifier says k, [B]: above zero where it does."""

    def p(self, logits: Tensor, targets: Tensor) -> Tensor:
        """p_k, [B]."""
        return self(logits).gather(1, targets[:, None])[:, 0]


class Softmax(Activation):
    """p_k = exp(f_k) / sum_j exp(f_j): an image shows one class, the likeliest."""

    name = "softmax"

    def __call__(self, logits: Tensor) -> Tensor:
        return logits.softmax(-1)

    def minus_log_p(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets, reduction="none")

    def minus_log_not_p(self, logits: Tensor, targets: Tensor) -> Tensor:
        return logits.logsumexp(1) - _without(logits, targets).logsumexp(1)

    def margin(self, logits: Tensor, targets: Tensor) -> Tensor:
        """f_k - max_{j != k} f_j: the target's own logit is left out of the maximum by -inf."""
        return _own(logits, targets) - _without(logits, targets).amax(1)


class Sigmoid(Activation):
    """p_k = 1 / (1 + exp(-f_k)): an image may show many classes, or none (a multi-label head)."""

    name = "sigmoid"
    remark = (
        "has a multi-label head: the p of a class is the sigmoid of its logit alone, so that an "
        "image may show several classes, or none; the class called is the one of the largest p"
    )

    def __call__(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()

    def minus_log_p(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.softplus(-_own(logits, targets))

    def minus_log_not_p(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.softplus(_own(logits, targets))

    def margin(self, logits: Tensor, targets: Tensor) -> Tensor:
        """f_k itself: k is said where p_k exceeds one half, whatever else is said."""
        return _own(logits, targets)


SOFTMAX, SIGMOID = Softmax(), Sigmoid()
ACTIVATIONS: dict[str, Activation] = {a.name: a for a in (SOFTMAX, SIGMOID)}


def _own(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.gather(1, targets[:, None])[:, 0]


def _without(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.scatter(1, targets[:, None], -torch.inf)
