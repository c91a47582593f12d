"""What is to be made: a batch of independent problems as one value."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from whylens.batch import Batch
from whylens.diffusion.conditioning import Conditioning, condition
from whylens.diffusion.inversion import Inversion
from whylens.diffusion.sampler import Sampler
from whylens.diffusion.schedules import fresh_noise
from whylens.guidance.checking import as_many


@dataclass(frozen=True)
class Paste(Batch):
    """What images [B, 3, S, S] show outside of masks [B, 1, S, S], both in [0, 1]."""

    images: Tensor
    masks: Tensor

    def around(self, images: Tensor) -> Tensor:
        """Images [B, 3, S, S] where the masks are 1, the paste's where they are 0."""
        return self.images + self.masks * (images - self.images)


@dataclass(frozen=True)
class Problems(Batch):
    """B images to make.

    latents
        [B, c, h, w] at the noisiest time.
    conditioning
        What steers their chains.
    seeds
        [B], of the views that a classifier gets of each.
    reference
        Latents [B, c, h, w] that `regularisers.latents` holds results to; None: those of the first
        image.
    background
        [B, 1, h, w] in [0, 1]: how much `regularisers.latents` counts of each place; None: all.
    paste
        What the images show outside of masks, to the pixel; None: they may change anywhere.
    """

    latents: Tensor
    conditioning: Conditioning
    seeds: Tensor
    reference: Tensor | None = None
    background: Tensor | None = None
    paste: Paste | None = None

    @classmethod
    def from_prompts(cls, sampler: Sampler, prompts: Sequence[str], seeds: Sequence[int]) -> Self:
        """Images of prompts, from noise; each seed is that of its noise and of its views.

        Raises
        ------
        ValueError
            If prompts and seeds are not as many.
        """
        as_many(prompts, seeds=seeds)
        return cls(
            sampler.initial_latents(seeds),
            condition(sampler, list(prompts)),
            torch.tensor(list(seeds)),
        )

    @classmethod
    def from_inversion(
        cls, sampler: Sampler, inversion: Inversion, prompts: Sequence[str], seeds: Sequence[int]
    ) -> Self:
        """Real images under prompts, their own or others, from where an inversion led.

        Raises
        ------
        ValueError
            If prompts or seeds are not as many as the images.
        """
        as_many(inversion, prompts=prompts, seeds=seeds)
        conditioning = inversion.onto(condition(sampler, list(prompts)))
        return cls(inversion.noise, conditioning, torch.tensor(list(seeds)), inversion.latents)

    def with_noise(self, sampler: Sampler, steps: int) -> Self:
        """The problems with the noise that a consistency model's chain takes on, of their seeds.

        As they are where an inversion leads their chains, and with other samplers.
        """
        if self.conditioning.offsets is not None:
            return self
        offsets = fresh_noise(sampler, self.seeds.tolist(), steps)
        return replace(self, conditioning=replace(self.conditioning, offsets=offsets))

    def shown(self, images: Tensor) -> Tensor:
        """Decoded images [B, 3, S, S] as they are shown: the paste's outside of its masks."""
        return images if self.paste is None else self.paste.around(images)

    def variables(self) -> dict[str, Tensor]:
        """What an optimiser may move, by name: latents, and the deltas that are there."""
        conditioning = self.conditioning
        named = {
            "latents": self.latents,
            "text_delta": conditioning.text_delta,
            "null_delta": conditioning.null_delta,
        }
        return {name: value for name, value in named.items() if value is not None}

    def moved_to(self, variables: Mapping[str, Tensor]) -> Self:
        """The problems with other values of some variables."""
        conditioning = replace(
            self.conditioning,
            text_delta=variables.get("text_delta", self.conditioning.text_delta),
            null_delta=variables.get("null_delta", self.conditioning.null_delta),
        )
        latents = variables.get("latents", self.latents)
        return replace(self, latents=latents, conditioning=conditioning)
