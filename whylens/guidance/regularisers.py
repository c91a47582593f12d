"""What keeps an optimisation near where it began: distance in latents, size of the deltas.

Objectives meet at the image; these meet at the variables, and at the latents that are decoded.
Their gradients are written out: a mean square's is its argument, scaled.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from whylens.guidance.settings import GuidanceSettings

# Variables with a step axis before the problem axis.
DELTAS = ("text_delta", "null_delta")


class Regularisers:
    """Penalties of a batch of problems, by the settings `keep_latents` and `delta_size`.

    The distance is the mean square between the chain's result and the latents that are kept,
    [c, h, w]; the size is that of what was added to the deltas [T, B, L, C] since the start.
    """

    def __init__(
        self,
        variables: Mapping[str, Tensor],
        kept: Sequence[Tensor | None],
        settings: GuidanceSettings,
    ) -> None:
        """`variables` as they start; of a problem whose `kept` is None the first result is kept."""
        self.latents_weight, self.delta_weight = settings.keep_latents, settings.delta_size
        self._given, self._kept = kept, torch.empty(0)
        self.starts = {
            name: variables[name].detach().clone()
            for name in DELTAS
            if name in variables and self.delta_weight
        }

    def values(self, latents: Tensor, variables: Mapping[str, Tensor]) -> Tensor:
        """The penalty [B] of each problem, where the chain's result is `latents`."""
        total = latents.new_zeros(len(latents))
        if self.latents_weight:
            total += self.latents_weight * self._gap(latents).square().flatten(1).mean(1)
        for name, start in self.starts.items():
            moved = variables[name].detach() - start
            total += self.delta_weight * moved.square().mean((0, 2, 3))
        return total

    def at_latents(self, latents: Tensor) -> Tensor | None:
        """The gradient of `values` at the chain's result; None where nothing pulls there."""
        if not self.latents_weight:
            return None
        return 2 * self.latents_weight / latents[0].numel() * self._gap(latents)

    def at_variables(self, variables: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The gradient of `values` at the deltas."""
        return {
            name: 2 * self.delta_weight / start[:, 0].numel() * (variables[name].detach() - start)
            for name, start in self.starts.items()
        }

    def select(self, rows: Tensor) -> None:
        """Keep some problems of the batch."""
        if self.latents_weight:
            self._kept = self._kept[rows]
        self.starts = {name: start[:, rows] for name, start in self.starts.items()}

    def _gap(self, latents: Tensor) -> Tensor:
        latents = latents.detach()
        if not len(self._kept):
            pairs = zip(self._given, latents, strict=True)
            self._kept = torch.stack([row if given is None else given for given, row in pairs])
        return latents - self._kept
