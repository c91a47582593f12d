"""Objectives in a classifier's features phi: single neurons, and neural PCA components."""

import torch
from torch import Tensor

from whylens.classifiers import Classifier
from whylens.errors import UsageError
from whylens.guidance.objectives.base import ClassifierObjective, Objective
from whylens.guidance.objectives.classes import check_targets


class FeatureObjective(ClassifierObjective):
    """-sign * phi_n / scale, with -w log p_k beside it (DiG-IN, section 6).

    features [B] are the indices n; signs [B] are 1 to raise (the default) and -1 to lower, as a
    neuron counterfactual may; phi_n is divided by `scale` [B] (default 1), its standard deviation
    over a collection, say, so that neurons weigh alike. classes [B] are the k of `weight_log_p`.

    Raises
    ------
    UsageError
        If the classifier has no such feature, or lacks a class.
    """

    def __init__(
        self,
        classifier: Classifier,
        features: Tensor,
        signs: Tensor | None = None,
        scale: Tensor | None = None,
        *,
        weight_log_p: float = 0.0,
        classes: Tensor | None = None,
    ) -> None:
        size = int(classifier.head.weight.shape[1])
        wrong = [n for n in features.tolist() if not 0 <= n < size]
        if wrong:
            raise UsageError(f"{classifier.name} has the features 0 to {size - 1}, not {wrong[0]}")
        if classes is not None:
            check_targets(classifier, classes)
        ones = torch.ones(len(features), device=features.device)
        self.classifier, self.features = classifier, features
        self.signs = ones if signs is None else signs
        self.scale = ones if scale is None else scale
        self.weight_log_p, self.classes = weight_log_p, classes
        self.view_size = classifier.image_size

    @property
    def name(self) -> str:
        return f"-sign phi_n of {self.classifier.name}" + _with_log_p(self.weight_log_p)

    @property
    def description(self) -> str:
        return f"a feature of {self.classifier.name} rises, or falls"

    def loss(self, images: Tensor) -> Tensor:
        phi = self.classifier.features(images)
        values = -self.signs * phi.gather(1, self.features[:, None])[:, 0] / self.scale
        if self.weight_log_p and self.classes is not None:
            logits = self.classifier.head(phi)
            crossed = self.classifier.activation.minus_log_p(logits, self.classes)
            values = values + self.weight_log_p * crossed
        return values

    def select(self, rows: Tensor) -> Objective:
        return self._of_rows(rows, "features", "signs", "scale", "classes")


class ComponentObjective(ClassifierObjective):
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
        self.view_size = classifier.image_size
        self.scale = directions.norm(dim=1) if scale is None else scale

    @property
    def name(self) -> str:
        return f"-alpha of {self.classifier.name}" + _with_log_p(self.weight_log_p)

    @property
    def description(self) -> str:
        return f"a component of {self.classifier.name} rises"

    def loss(self, images: Tensor) -> Tensor:
        features = self.classifier.features(images)
        alphas = (features * self.directions).sum(1) - self.offsets
        values = -alphas / self.scale
        if self.weight_log_p and self.classes is not None:
            logits = self.classifier.head(features)
            crossed = self.classifier.activation.minus_log_p(logits, self.classes)
            values = values + self.weight_log_p * crossed
        return values

    def select(self, rows: Tensor) -> Objective:
        return self._of_rows(rows, "directions", "offsets", "scale", "classes")


def _with_log_p(weight: float) -> str:
    return f" + {weight:g} -log p" if weight else ""
