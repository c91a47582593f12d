"""What an explanation of one decision holds, for the page, the figure and the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Exemplar:
    """An image of the class that activates a component most."""

    image_id: str
    alpha: float
    thumb: bytes


@dataclass(frozen=True)
class Contribution:
    """A component's part in the decision.

    `standing` says what is known of it: "found spurious (finding 2)", "labelled spurious by ...";
    empty where nothing is. `removed` is what SpuFix takes away, max(alpha, 0) of a spurious one.
    """

    component: int
    alpha: float
    words: tuple[str, ...]
    standing: str
    spurious: bool
    heatmap: bytes
    exemplars: tuple[Exemplar, ...]

    @property
    def removed(self) -> float:
        return max(self.alpha, 0.0) if self.spurious else 0.0


@dataclass(frozen=True)
class ClassChange:
    """A class's probability before and after SpuFix."""

    class_name: str
    before: float
    after: float


@dataclass(frozen=True)
class Explanation:
    """The decision on one image.

    logit = constant + the contributions' alphas + rest; `fixed_logit` is that after SpuFix, over
    all components of the class; `others` counts the components that `rest` holds; `folder` is where
    its page is, if it was written.
    """

    image: str
    picture: bytes
    run: str
    classifier: str
    class_name: str
    predicted: str
    class_index: int
    logit: float
    constant: float
    contributions: tuple[Contribution, ...]
    rest: float
    others: int
    fixed_logit: float
    fixed_prediction: str
    changes: tuple[ClassChange, ...]
    folder: str = ""

    @property
    def repaired(self) -> bool:
        """Whether SpuFix changes any class's probability."""
        return any(change.before != change.after for change in self.changes)

    @property
    def removed(self) -> float:
        """What SpuFix takes from the class's logit."""
        return self.logit - self.fixed_logit

    def record(self) -> dict[str, Any]:
        """Everything but the pictures, for JSON."""
        return {
            "image": self.image,
            "run": self.run,
            "classifier": self.classifier,
            "class": self.class_name,
            "class_index": self.class_index,
            "predicted": self.predicted,
            "logit": self.logit,
            "constant": self.constant,
            "components": [
                {
                    "component": c.component,
                    "alpha": c.alpha,
                    "words": list(c.words),
                    "standing": c.standing,
                    "spurious": c.spurious,
                    "exemplars": [e.image_id for e in c.exemplars],
                }
                for c in self.contributions
            ],
            "rest": self.rest,
            "spufix": {
                "logit": self.fixed_logit,
                "removed": self.removed,
                "predicted": self.fixed_prediction,
                "probabilities": {
                    c.class_name: {"before": c.before, "after": c.after} for c in self.changes
                },
            },
        }
