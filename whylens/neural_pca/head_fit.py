"""A linear head fitted to images again, held near the old one; block by block, on any device."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

# By how much a fit may be expected to change a logit: one standard deviation.
CHANGE = 4.0
# Rows whose logits are held at once.
BLOCK = 16384


@dataclass(frozen=True)
class Rows:
    """Images on a device: features [N, D] and labels [N]."""

    features: Tensor
    labels: Tensor

    @classmethod
    def of(
        cls,
        features: NDArray[np.floating[Any]],
        labels: NDArray[np.integer[Any]],
        device: str,
        dtype: torch.dtype | None = None,
    ) -> "Rows":
        """From arrays; float64 on a CPU and float32 elsewhere where no dtype is given."""
        if dtype is None:
            dtype = torch.float64 if torch.device(device).type == "cpu" else torch.float32
        return cls(
            torch.tensor(features, dtype=dtype, device=device),
            torch.tensor(labels, dtype=torch.int64, device=device),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Features and labels, so many at a time that logits of as many fit into memory."""
        for start in range(0, len(self), BLOCK):
            yield self.features[start : start + BLOCK], self.labels[start : start + BLOCK]

    @torch.no_grad()
    def right(
        self, start: tuple[Tensor, Tensor], end: tuple[Tensor, Tensor], shares: Sequence[float]
    ) -> NDArray[np.int64]:
        """How many images each head says the labels of, that is a part of the way, [S], from one
        head to another: 0 is the first, 1 the second."""
        right = np.zeros(len(shares), np.int64)
        for features, labels in self.blocks():
            first, second = (
                F.linear(features, weight.to(features), bias.to(features))
                for weight, bias in (start, end)
            )
            right += [
                int((torch.lerp(first, second, share).argmax(1) == labels).sum())
                for share in shares
            ]
        return right


def fit(
    weight: Tensor, bias: Tensor, images: Rows, mined: Rows, strength: float
) -> tuple[Tensor, Tensor]:
    """The head W [K, D], b [K], float64, with the least cross-entropy near the one given.

    The mean over the training images, plus `strength` times that over the mined ones, and what the
    change costs; by L-BFGS. Whatever the rows' dtype, sums over them are float64.

    Change is measured in units of each feature's spread; each weight's is normal to begin with, of
    such a variance that a logit's has the deviation `CHANGE`. So the penalty is D / (2 N CHANGE^2):
    with more features than images, each one's change is dear, or images are learned by heart.
    """
    nearness = weight.shape[1] / (2 * len(images) * CHANGE**2)
    spread = images.features.std(0).clamp_min(1e-6).double()
    turn = torch.zeros_like(weight, requires_grad=True)
    shift = torch.zeros_like(bias, requires_grad=True)
    optimiser = torch.optim.LBFGS([turn, shift], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> float:
        optimiser.zero_grad()
        near = nearness * turn.square().sum()
        near.backward()  # type: ignore[no-untyped-call]
        total = float(near.detach())
        for rows, share in ((images, 1 / len(images)), (mined, strength / len(mined))):
            for features, labels in rows.blocks():
                head = weight + turn / spread, bias + shift
                logits = F.linear(features, *(part.to(features) for part in head))
                losses = F.cross_entropy(logits, labels, reduction="none").double()
                value = share * losses.sum()
                value.backward()  # type: ignore[no-untyped-call]
                total += float(value.detach())
        return total

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        return weight + turn / spread, bias + shift
