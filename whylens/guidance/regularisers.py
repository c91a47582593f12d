"""What keeps an optimisation near where it began: distance in latents, size of the deltas.

Objectives meet at the image; these meet at the variables, and at the latents that are decoded.
Their gradients are written out: a mean square's is its argument, scaled.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from whylens.guidance.settings import RegulariserSettings


class Regularisers:
    """Penalties of a batch of problems.

    The distance is the mean square, or absolute mean, between the chain's result and the reference
    latents [B, c, h, w], weighed by `weights` [B, 1, h, w] where there are any; the size is that of
    what was added to the deltas [B, T, L, C] since the start.
    """

    def __init__(
        self,
        variables: Mapping[str, Tensor],
        reference: Tensor | None,
        settings: RegulariserSettings,
        weights: Tensor | None = None,
    ) -> None:
        """`variables` as they start; without a reference a problem's first result is it."""
        self.settings, self.reference, self.weights = settings, reference, weights
        self.starts = {
            name: start.detach().clone()
            for name, start in variables.items()
            if name != "latents" and settings.deltas
        }

    def values(self, latents: Tensor, variables: Mapping[str, Tensor]) -> Tensor:
        """The penalty [B] of each problem, where the chain's result is `latents`."""
        total = latents.new_zeros(len(latents))
        if self.settings.latents:
            gap = self._gap(latents)
            sizes = self._weighed(gap.square() if self.settings.power == 2 else gap.abs())
            total += self.settings.latents * sizes.flatten(1).mean(1)
        for name, start in self.starts.items():
            moved = variables[name].detach() - start
            total += self.settings.deltas * moved.square().flatten(1).mean(1)
        return total

    def at_latents(self, latents: Tensor) -> Tensor | None:
        """The gradient of `values` at the chain's result; None where nothing pulls there."""
        if not self.settings.latents:
            return None
        gap = self._gap(latents)
        slope = self._weighed(2 * gap if self.settings.power == 2 else gap.sign())
        return self.settings.latents / latents[0].numel() * slope

    def at_variables(self, variables: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The gradient of `values` at the deltas."""
        return {
            name: 2 * self.settings.deltas / start[0].numel() * (variables[name].detach() - start)
            for name, start in self.starts.items()
        }

    def select(self, rows: Tensor) -> None:
        """Keep some problems of the batch."""
        if self.reference is not None:
            self.reference = self.reference[rows]
        if self.weights is not None:
            self.weights = self.weights[rows]
        self.starts = {name: start[rows] for name, start in self.starts.items()}

    def join(self, others: "Regularisers") -> None:
        """More problems, behind those that are there."""
        if self.reference is not None and others.reference is not None:
            self.reference = torch.cat([self.reference, others.reference])
        if self.weights is not None and others.weights is not None:
            self.weights = torch.cat([self.weights, others.weights])
        self.starts = {
            name: torch.cat([start, others.starts[name]]) for name, start in self.starts.items()
        }

    def _weighed(self, sizes: Tensor) -> Tensor:
        return sizes if self.weights is None else sizes * self.weights

    def _gap(self, latents: Tensor) -> Tensor:
        latents = latents.detach()
        if self.reference is None:
            self.reference = latents
        elif (known := len(self.reference)) < len(latents):
            self.reference = torch.cat([self.reference, latents[known:]])
        return latents - self.reference
