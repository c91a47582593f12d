"""Real images as the sampler takes them: read, cut to its size, or why one can't be changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from whylens.images import RejectedImageError
from whylens.jobs.guided.worker import Made, Picture
from whylens.runs.lineage import Lineage

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from whylens.diffusion import Sampler
    from whylens.images import ImageRecord


@dataclass
class Loaded:
    """A unit's images: records, pixels [H, W, 3] as they were read, and images [B, 3, S, S].

    `failed` says of each why it can't be changed, None where it can.
    """

    records: list[ImageRecord]
    pixels: list[NDArray[np.uint8]]
    images: Tensor
    failed: list[str | None]

    @property
    def fit(self) -> list[int]:
        """The places of those that can be changed."""
        return [place for place, reason in enumerate(self.failed) if reason is None]

    def everyone(self, made: Sequence[Made]) -> Iterator[Made]:
        """What became of every image, where `made` is what became of those that are fit."""
        from whylens.guidance.solutions import Solution

        changed = dict(zip(self.fit, made, strict=True))
        for place, reason in enumerate(self.failed):
            if place in changed:
                yield changed[place]
            else:
                yield Made(Solution(failed=reason), Picture(self.images[place]), None)


class RealImages:
    """The collection that a run explains, for one sampler."""

    def __init__(self, lineage: Lineage, sampler: Sampler) -> None:
        from whylens.images import open_collection

        self.collection = open_collection(str(lineage.setting("images")))
        self.sampler = sampler

    def load(self, image_ids: Sequence[str]) -> Loaded:
        """Images by id, as the sampler takes them."""
        import torch

        from whylens.images.tensors import to_tensor, too_small

        size = self.sampler.image_size
        known = self.collection.records.with_ids(image_ids)
        records = [known[image_id] for image_id in image_ids]
        pixels, failed = [], []
        for record in records:
            try:
                pixels.append(self.collection.load(record))
                failed.append(too_small(pixels[-1], size))
            except RejectedImageError as error:  # it could be read when it was embedded
                pixels.append(np.zeros((size, size, 3), np.uint8))
                failed.append(str(error))
        images = torch.stack([to_tensor(one, size) for one in pixels]).to(self.sampler.device)
        return Loaded(records, pixels, images, failed)
