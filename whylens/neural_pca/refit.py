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

from collections.abc import Iterator, Sequence
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
STRENGTHS = (0.3, 0.45, 0.7, 1.0, 1.5)
# Where the most timid is too bold: parts of the way to it (Wortsman et al. 2022 go back that way).
SHARES = tuple(hundredths / 100 for hundredths in range(1, 101))
# Training images are held out in turn, a part of this many at a time, until so many were.
PARTS = 5
ENOUGH = 20_000


@dataclass(frozen=True)
class Refit:
    """A new head for a classifier's features: weight [K, D], bias [K].

    `strength` is the weight of the mined images against the training images; `cost` the accuracy
    lost on training images while they were held out, in [-1, 1]; `share` how much of the way from
    the old head to the fitted one was gone, in [0, 1], 0 where nothing keeps to the budget.
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
        Accuracy on training images held out, in [0, 1], that may be lost: the way to the most timid
        of `strengths` is gone until more would be, and where all of it keeps to the budget, bolder
        ones are taken until one does not. Each image is held out once: on a part of a few hundred,
        three images would decide. A network that was trained on these images knows them by heart:
        images of new objects may lose more than the budget says.
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
    w, b = (torch.from_numpy(part).to(device) for part in old)
    mined = Rows.of(mined_features, known, device)
    halves = list(_held_out(features, labels, device))
    strength, share, cost = _boldest((w, b), halves, mined, sorted(strengths), budget)
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


def _held_out(features: Features, labels: Labels, device: str) -> Iterator[tuple[Rows, Rows]]:
    """The images without a part, and that part, for one part after another.

    Each class is spread over all parts.
    """
    from whylens.neural_pca.head_fit import Rows

    order = np.lexsort((np.random.default_rng(0).random(len(labels)), labels))
    part = np.empty(len(labels), int)
    part[order] = np.arange(len(labels)) % PARTS
    seen = 0
    for one in range(min(PARTS, len(labels))):
        held = part == one
        yield (
            Rows.of(features[~held], labels[~held], device),
            Rows.of(features[held], labels[held], device),
        )
        seen += int(held.sum())
        if seen >= ENOUGH:
            break


def _boldest(
    old: Head,
    halves: Sequence[tuple[Rows, Rows]],
    mined: Rows,
    strengths: Sequence[float],
    budget: float,
) -> tuple[float, float, float]:
    """Strength, share of the way and accuracy lost on images held out: as far as budgeted."""
    from whylens.neural_pca.head_fit import fit

    images = sum(len(unseen) for _, unseen in halves)

    def lost(strength: float, shares: Sequence[float]) -> Array:
        right = [
            unseen.right(old, fit(*old, seen, mined, strength), (0.0, *shares))
            for seen, unseen in halves
        ]
        total = np.sum(right, 0)
        costs: Array = (total[0] - total[1:]) / images
        return costs

    timid, *bolder = strengths
    costs = lost(timid, SHARES)
    steps = int(np.argmax(np.append(costs, np.inf) > budget))
    if steps == 0:
        return timid, 0.0, 0.0
    chosen, share, cost = timid, SHARES[steps - 1], float(costs[steps - 1])
    for strength in bolder if share == 1 else ():
        bold = float(lost(strength, (1.0,))[0])
        if bold > budget:
            break
        chosen, cost = strength, bold
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
