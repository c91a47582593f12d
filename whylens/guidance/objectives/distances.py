"""Regularisers: how far an image is from a reference, in pixels or in a classifier's features."""

from typing import Literal

import torch
from torch import Tensor

from whylens.classifiers import Classifier
from whylens.guidance.objectives.base import ClassifierObjective, LocalObjective, Objective


class PixelDistance(LocalObjective):
    """Mean squared distance to reference images [B, 3, H, W], or mean absolute with power 1.

    A mask [B, 1, H, W] weighs pixels: of the object for the foreground, 1 minus it for the
    background. The mean is over all pixels, so that a small mask counts for little.
    """

    on_views = False

    def __init__(
        self, reference: Tensor, mask: Tensor | None = None, power: Literal[1, 2] = 2
    ) -> None:
        self.reference, self.mask, self.power = reference, mask, power

    @property
    def name(self) -> str:
        return "pixel distance"

    @property
    def description(self) -> str:
        return "the mean distance to the image in pixels"

    def loss(self, images: Tensor) -> Tensor:
        change = images - self.reference
        sizes = change.square() if self.power == 2 else change.abs()
        if self.mask is not None:
            sizes = sizes * self.mask
        return sizes.flatten(1).mean(1)

    def select(self, rows: Tensor) -> Objective:
        return self._of_rows(rows, "reference", "mask")


class FeatureDistance(ClassifierObjective):
    """|phi(x) - phi(reference)|^2 / |phi(reference)|^2 in a classifier's features.

    `reference` are images [B, 3, H, W]. For a CLIP model, whose features have length one, this is
    twice the cosine distance of the embeddings.
    """

    on_views = False

    def __init__(self, classifier: Classifier, reference: Tensor) -> None:
        self.classifier = classifier
        with torch.no_grad():
            self.features = classifier.features(reference.to(classifier.device))

    @property
    def name(self) -> str:
        return f"feature distance by {self.classifier.name}"

    @property
    def description(self) -> str:
        return f"the distance to the image in the features of {self.classifier.name}"

    def loss(self, images: Tensor) -> Tensor:
        gap = self.classifier.features(images) - self.features
        # Features of a ReLU network may all be zero.
        return gap.square().sum(1) / self.features.square().sum(1).clamp_min(1e-12)

    def select(self, rows: Tensor) -> Objective:
        return self._of_rows(rows, "features")
