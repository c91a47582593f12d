"""Refit: a head that has seen what a spurious feature looks like without its class.

Plain SpuFix takes max(alpha, 0), measured from the class mean. Where nearly all images of a class
have the feature, alpha is near zero when it is present: nothing is taken. The mined images of the
sufficiency check know more: they show the feature, not the class. Their features, with what they
do show as label, are added to the training images' and the linear head alone is fitted again,
held near the old one; so are the class's own images of the mined collection, in which the feature
is no rule (`with_own_images`). (Kirichenko et al. 2023 retrain the last layer on images whose
groups are labelled; here mining finds the group.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from whylens.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from whylens.neural_pca.head_fit import Rows

    Head = tuple[Tensor, Tensor]

Array = NDArray[np.float64]
Features = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]

# How much the mined images weigh against the training images, from timid to bold.
STRENGTHS = (0.1, 0.2, 0.3, 0.45, 0.7, 1.0, 1.5)
# Where the most timid is too bold: parts of the way to it (Wortsman et al. 2022 go back that way).
SHARES = tuple(hundredths / 100 for hundredths in range(99, 0, -1))
# The part of the training images on which the strength is chosen.
HELD_OUT = 0.3


@dataclass(frozen=True)
class Refit:
    """A new head for a classifier's features: weight [K, D], bias [K].

    `strength` is the weight of the mined images against the training images; `cost` the accuracy
    lost on training images held out, in [-1, 1]; `share` how much of the way from the old head to
    the fitted one was gone, in [0, 1], 0 where nothing keeps to the budget.
    """

    weight: Array
    bias: Array
    strength: float
    cost: float
    share: float = 1.0

    @property
    def arrays(self) -> dict[str, Array]:
        """What a repaired classifier is made of, in place of its own head."""
        return {"weight": self.weight, "bias": self.bias}


def refit(
    weight: Features,
    bias: Features,
    features: Features,
    labels: Labels,
    mined_features: Features,
    mined_labels: Labels,
    mined_for: Labels,
    *,
    budget: float = 0.015,
    strengths: Sequence[float] = STRENGTHS,
    device: str = "cpu",
) -> Refit:
    """Fit the head again, as boldly as training accuracy allows.

    Parameters
    ----------
    weight, bias
        The head W [K, D] and b [K].
    features, labels
        The training images', [N, D] and [N].
    mined_features, mined_labels
        Mined images', [M, D] and [M]. Where an image's class is not known (-1), the best class
        other than `mined_for`, as the old head says, stands in.
    mined_for
        The class that each was mined for, and does not show, [M].
    budget
        Accuracy on training images held out, in [0, 1], that may be lost; the boldest of
        `strengths` that keeps to it is taken, and where none does a part of the way to the most
        timid. A network that was trained on these images knows them by heart: images of new objects
        lose more than the budget says.
    device
        Where it is calculated: in float64 on a CPU; on a GPU, which is slow at that, products of
        rows are float32, while the head and all sums over rows are float64.

    Raises
    ------
    UsageError
        If there are no mined images, or features don't fit the head.
    """
    import torch  # which takes seconds, and the rest of neural PCA does without

    from whylens.neural_pca.head_fit import Rows, fit

    old = np.asarray(weight, np.float64), np.asarray(bias, np.float64)
    _require_fit(old[0], features, mined_features)
    known = np.where(mined_labels >= 0, mined_labels, _runner_up(*old, mined_features, mined_for))
    held = np.random.default_rng(0).random(len(labels)) < HELD_OUT
    w, b = (torch.from_numpy(part).to(device) for part in old)
    mined = Rows.of(mined_features, known, device)
    strength, share, cost = _boldest(
        (w, b),
        Rows.of(features[~held], labels[~held], device),
        Rows.of(features[held], labels[held], device),
        mined,
        sorted(strengths),
        budget,
    )
    fitted = fit(w, b, Rows.of(features, labels, device), mined, strength)
    w, b = _between((w, b), fitted, share)
    return Refit(w.cpu().numpy(), b.cpu().numpy(), strength, cost, share)


def with_own_images(
    rows: Labels, mined_for: Labels, labels: Labels
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What a head is shown of a mined collection: rows [S], and what each was mined for, [S].

    The mined images, rows [M] that were mined for the classes [M], say what a class is not. What it
    is where its feature is absent is said by its own images: all those, of the collection's labels
    [N], that are of a class something was mined for. They were mined for none, -1.
    """
    own = np.setdiff1d(np.flatnonzero(np.isin(labels, mined_for)), rows)
    return np.concatenate([rows, own]), np.concatenate([mined_for, np.full(len(own), -1)])


def _boldest(
    old: Head, seen: Rows, unseen: Rows, mined: Rows, strengths: Sequence[float], budget: float
) -> tuple[float, float, float]:
    """Strength, share of the way, and accuracy lost on `unseen`, which keeps to the budget."""
    from whylens.neural_pca.head_fit import fit

    before = unseen.accuracy(*old)
    timid, *bolder = strengths
    fitted = fit(*old, seen, mined, timid)
    for share in (1.0, *SHARES):
        cost = before - unseen.accuracy(*_between(old, fitted, share))
        if cost <= budget:
            break
    else:
        return timid, 0.0, 0.0
    chosen = timid
    for strength in bolder if share == 1 else ():
        lost = before - unseen.accuracy(*fit(*old, seen, mined, strength))
        if lost > budget:
            break
        chosen, cost = strength, lost
    return chosen, share, cost


def _between(old: Head, fitted: Head, share: float) -> Head:
    """The head a part of the way from one to another; its logits are as far between theirs."""
    weight, bias = (start + share * (end - start) for start, end in zip(old, fitted, strict=True))
    return weight, bias


def _runner_up(weight: Array, bias: Array, features: Features, excluded: Labels) -> Labels:
    logits = np.asarray(features, np.float64) @ weight.T + bias
    logits[np.arange(len(logits)), excluded] = -np.inf
    best: Labels = logits.argmax(1)
    return best


def _require_fit(weight: Array, features: Features, mined_features: Features) -> None:
    if len(mined_features) == 0:
        raise UsageError("there are no mined images to fit the head to")
    for what, rows in (("training", features), ("mined", mined_features)):
        if rows.shape[1] != weight.shape[1]:
            raise UsageError(
                f"the {what} images have {rows.shape[1]} features, the head {weight.shape[1]}: "
                "they are of different classifiers"
            )
