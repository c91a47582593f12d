"""Objectives: what an image is optimised for. They add, scale, and meet at the image.

An objective answers value_and_gradient(images [B, 3, H, W]) -> (values [B], gradients [B, 3, H,
W]). Values are losses: lower is better. Each image is a problem of its own, and `select` gives
the objective of some of them. Anything that answers this way serves, a Ray actor too.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from whylens.classifiers import Classifier
from whylens.kernels import disagreement


class Objective(ABC):
    """A loss of images, one value an image.

    Attributes
    ----------
    on_views
        Whether random views of an image are as good as the image itself. They are for a
        classifier; a distance to a reference image would compare a crop with the whole.
    """

    on_views: bool = True

    @abstractmethod
    def value_and_gradient(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images [B, 3, H, W] -> (values [B], gradients [B, 3, H, W]), both detached."""

    @abstractmethod
    def select(self, rows: Tensor) -> "Objective":
        """The objective of the problems `rows` [b], in their order."""

    def __add__(self, other: "Objective") -> "Objective":
        return Weighted(((1.0, self), (1.0, other)))

    def __mul__(self, weight: float) -> "Objective":
        return Weighted(((float(weight), self),))

    __rmul__ = __mul__


class Weighted(Objective):
    """A weighted sum of objectives."""

    def __init__(self, terms: tuple[tuple[float, Objective], ...]) -> None:
        self.terms = terms

    def value_and_gradient(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.combine([term.value_and_gradient(images) for _, term in self.terms])

    def combine(self, parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """The weighted sum of the terms' values [B] and gradients [B, 3, H, W]."""
        weights = [weight for weight, _ in self.terms]
        scaled = [(w * v, w * g) for w, (v, g) in zip(weights, parts, strict=True)]
        values, gradients = zip(*scaled, strict=True)
        return torch.stack(values).sum(0), torch.stack(gradients).sum(0)

    def select(self, rows: Tensor) -> Objective:
        return Weighted(tuple((weight, term.select(rows)) for weight, term in self.terms))


class LocalObjective(Objective):
    """An objective whose loss is a differentiable function in this process."""

    @abstractmethod
    def loss(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] -> losses [B], differentiable."""

    def value_and_gradient(self, images: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            pixels = images.detach().requires_grad_(True)
            values = self.loss(pixels)
            (gradients,) = torch.autograd.grad(values.sum(), pixels)
        return values.detach(), gradients


class TargetClass(LocalObjective):
    """Cross-entropy to the target, -log p_k, or -p_k itself."""

    def __init__(
        self,
        classifier: Classifier,
        targets: Tensor,
        form: Literal["cross_entropy", "probability"] = "cross_entropy",
    ) -> None:
        self.classifier, self.targets, self.form = classifier, targets, form

    def loss(self, images: Tensor) -> Tensor:
        logits = self.classifier.logits(images)
        if self.form == "cross_entropy":
            return F.cross_entropy(logits, self.targets, reduction="none")
        return -logits.softmax(1).gather(1, self.targets[:, None])[:, 0]

    def select(self, rows: Tensor) -> Objective:
        return TargetClass(self.classifier, self.targets[rows], self.form)


class Disagreement(LocalObjective):
    """-p_k of classifier A + p_k of classifier B (DiG-IN, section 4)."""

    def __init__(self, a: Classifier, b: Classifier, targets_a: Tensor, targets_b: Tensor) -> None:
        self.a, self.b = a, b
        self.targets_a, self.targets_b = targets_a, targets_b

    def loss(self, images: Tensor) -> Tensor:
        values: Tensor = disagreement(
            self.a.logits(images), self.b.logits(images), self.targets_a, self.targets_b
        )
        return values

    def select(self, rows: Tensor) -> Objective:
        return Disagreement(self.a, self.b, self.targets_a[rows], self.targets_b[rows])


class ComponentObjective(LocalObjective):
    """-alpha_l, with -log p_k beside it: alpha_l(x) = <d_l, phi(x)> - c_l.

    directions [B, D], offsets [B], classes [B]. Alphas are divided by `scale` [B], so that alpha
    and log p weigh alike; by default the length of d_l.
    """

    def __init__(
        self,
        classifier: Classifier,
        directions: Tensor,
        offsets: Tensor,
        *,
        weight_log_p: float = 0.0,
        classes: Tensor | None = None,
        scale: Tensor | None = None,
    ) -> None:
        self.classifier = classifier
        self.directions, self.offsets = directions, offsets
        self.weight_log_p, self.classes = weight_log_p, classes
        self.scale = directions.norm(dim=1) if scale is None else scale

    def loss(self, images: Tensor) -> Tensor:
        features = self.classifier.features(images)
        alphas = (features * self.directions).sum(1) - self.offsets
        values = -alphas / self.scale
        if self.weight_log_p and self.classes is not None:
            logits = self.classifier.head(features)
            crossed = F.cross_entropy(logits, self.classes, reduction="none")
            values = values + self.weight_log_p * crossed
        return values

    def select(self, rows: Tensor) -> Objective:
        return ComponentObjective(
            self.classifier,
            self.directions[rows],
            self.offsets[rows],
            weight_log_p=self.weight_log_p,
            classes=None if self.classes is None else self.classes[rows],
            scale=self.scale[rows],
        )


class PixelDistance(LocalObjective):
    """Mean squared distance to reference images [B, 3, H, W]; a mask [B, 1, H, W] weighs pixels."""

    on_views = False

    def __init__(self, reference: Tensor, mask: Tensor | None = None) -> None:
        self.reference, self.mask = reference, mask

    def loss(self, images: Tensor) -> Tensor:
        squared = (images - self.reference).square()
        if self.mask is not None:
            squared = squared * self.mask
        return squared.flatten(1).mean(1)

    def select(self, rows: Tensor) -> Objective:
        return PixelDistance(self.reference[rows], None if self.mask is None else self.mask[rows])
