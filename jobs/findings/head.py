"""A classifier's head without its network, and whether it made the features of a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from whylens.errors import UsageError
from whylens.jobs.images.embedded import COLUMNS, read_embedded

if TYPE_CHECKING:
    from whylens.classifiers import Classifier
    from whylens.runs import Table

# Stored predictions that the head gives again from the stored features; float16 rounding turns a
# few that are nearly undecided.
SAME_PREDICTIONS = 0.9


@dataclass(frozen=True)
class Head:
    """A classifier's head on the CPU: weight [K, D] and bias [K], float64, and its names.

    `activation` is "softmax" or "sigmoid", as the classifier's.
    """

    weight: np.ndarray
    bias: np.ndarray
    names: tuple[str, ...]
    fingerprint: str
    activation: str = "softmax"

    @classmethod
    def of(cls, classifier: Classifier) -> Head:
        """The head of a classifier."""
        return cls(
            *classifier.head.arrays(),
            tuple(classifier.class_names),
            classifier.fingerprint,
            classifier.activation.name,
        )

    @property
    def size(self) -> int:
        """D."""
        return int(self.weight.shape[1])

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Features [N, D] -> probabilities [N, K], float32."""
        return self.of_logits(
            features @ self.weight.T.astype(np.float32) + self.bias.astype(np.float32)
        )

    def of_logits(self, logits: np.ndarray) -> np.ndarray:
        """Logits [N, K] -> probabilities [N, K], in the logits' precision."""
        from scipy.special import expit, softmax

        p = expit(logits) if self.activation == "sigmoid" else softmax(logits, axis=1)
        return np.asarray(p)


def require_made_by(images: Table, part: str, name: str, head: Head) -> None:
    """That the images of a part were embedded by the classifier `name`, whose head this is.

    Raises
    ------
    UsageError
        If it has other features or classes, or predicts other classes from them.
    """
    table = images.read_part(part, COLUMNS)
    if len(table) == 0:
        return
    where = f"the images of {images.url} were not embedded by {name} ({head.fingerprint})"
    what = "embed them again with it, or name the classifier that they were embedded with"
    size = table["features"].type.list_size
    if size != head.size:
        raise UsageError(
            f"{where}: they have {size} features, the classifier has {head.size}: {what}"
        )
    seen = read_embedded(table, table["collection"][0].as_py())
    if (largest := seen.largest_class) >= len(head.names):
        raise UsageError(
            f"{where}: they have a label {largest}, the classifier has {len(head.names)} classes: "
            f"{what}"
        )
    same = (head.probabilities(seen.features).argmax(1) == seen.predicted).mean()
    if same < SAME_PREDICTIONS:
        raise UsageError(
            f"{where}: from the same features it predicts the class that is on record for "
            f"{same:.0%} of them only: {what}"
        )
