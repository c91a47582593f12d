"""What an objective is.

An objective answers value_and_gradient(images [B, 3, H, W]) -> (values [B], gradients [B, 3, H,
W]). Values are losses: lower is better. Each image is a problem of its own, and `select` gives
the objective of some of them. Anything that answers this way serves, a Ray actor too.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from typing import Self

import torch
from torch import Tensor

from whylens.classifiers import Classifier
from whylens.classifiers.elsewhere import Elsewhere


class Objective(ABC):
    """A loss of images, one value an image.

    Attributes
    ----------
    on_views
        Whether random views of an image are as good as the image itself. They are for a
        classifier; a distance to a reference image would compare a crop with the whole.
    view_size
        Side in pixels at which its network takes views; None: that of the images themselves.
    name
        What is lowered, as a formula that reports and logs are labelled by; names of sums are sums
        of names.
    description
        The same in words.
    """

    on_views: bool = True
    view_size: int | None = None

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def description(self) -> str:
        return self.name

    @abstractmethod
    def value_and_gradient(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images [B, 3, H, W] -> (values [B], gradients [B, 3, H, W]), both detached."""

    def value_only(self, images: Tensor) -> Tensor:
        """The values [B] without a gradient, detached."""
        return self.value_and_gradient(images)[0]

    @abstractmethod
    def select(self, rows: Tensor) -> "Objective":
        """The objective of the problems `rows` [b], in their order, as often as they are named."""

    def __add__(self, other: "Objective") -> "Objective":
        return Weighted(((1.0, self), (1.0, other)))

    def __mul__(self, weight: float) -> "Objective":
        return Weighted(((float(weight), self),))

    __rmul__ = __mul__


class Weighted(Objective):
    """A weighted sum of objectives."""

    def __init__(self, terms: tuple[tuple[float, Objective], ...]) -> None:
        self.terms = terms

    @property
    def name(self) -> str:
        return " + ".join(_weighed(weight, term, term.name) for weight, term in self.terms)

    @property
    def description(self) -> str:
        return ", and ".join(
            _weighed(weight, term, term.description) for weight, term in self.terms
        )

    def value_and_gradient(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.combine([term.value_and_gradient(images) for _, term in self.terms])

    def value_only(self, images: Tensor) -> Tensor:
        parts = [weight * term.value_only(images) for weight, term in self.terms]
        return torch.stack(parts).sum(0)

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

    @torch.no_grad()
    def value_only(self, images: Tensor) -> Tensor:
        return self.loss(images)

    def _of_rows(self, rows: Tensor, *names: str) -> Self:
        """The same with rows of the tensors of these names: what was checked is not checked again.

        (Looking at a tensor would make the host wait for a GPU.)
        """
        some = copy(self)
        for name in names:
            if (values := getattr(self, name)) is not None:
                setattr(some, name, values[rows.to(values.device)])
        return some


class ClassifierObjective(LocalObjective):
    """An objective whose loss goes through one classifier's network, wherever that is.

    Images and the objective's own tensors go to the classifier's device, values and gradients come
    back to the images'. The objective itself goes to a classifier that is `Elsewhere`.
    """

    classifier: Classifier

    def value_and_gradient(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(self.classifier, Elsewhere):
            answer: tuple[Tensor, Tensor] = self.classifier.asked(value_and_gradient, self, images)
            return answer
        device = self.classifier.device
        found = LocalObjective.value_and_gradient(self.to(device), images.to(device))
        return found[0].to(images.device), found[1].to(images.device)

    def value_only(self, images: Tensor) -> Tensor:
        if isinstance(self.classifier, Elsewhere):
            values: Tensor = self.classifier.asked(value_only, self, images)
            return values
        device = self.classifier.device
        return LocalObjective.value_only(self.to(device), images.to(device)).to(images.device)

    def to(self, device: torch.device | str) -> Self:
        """The same with its own tensors on a device; its classifier stays where it is."""
        moved = copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(moved, name, value.to(device))
        return moved


def value_and_gradient(objective: Objective, images: Tensor) -> tuple[Tensor, Tensor]:
    """What a classifier that is `Elsewhere` is asked of an objective."""
    return objective.value_and_gradient(images)


def value_only(objective: Objective, images: Tensor) -> Tensor:
    """The same without a gradient."""
    return objective.value_only(images)


def _weighed(weight: float, term: Objective, text: str) -> str:
    if weight == 1:
        return text
    return f"{weight:g} ({text})" if isinstance(term, Weighted) else f"{weight:g} {text}"
