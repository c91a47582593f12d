"""Who takes part in guided generation, and where they run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from whylens.cluster.placement import Placement
from whylens.cluster.room import settled

if TYPE_CHECKING:
    from whylens.classifiers import Classifier
    from whylens.diffusion import Sampler


@dataclass(frozen=True)
class Models:
    """A sampler, the classifier that is explained and others, by name; and their placement."""

    sampler: str
    classifier: str
    against: Sequence[str] = ()
    placement: Placement = field(default_factory=Placement)

    @property
    def classifiers(self) -> list[str]:
        """All classifiers' names, each once, the explained one first."""
        return list(dict.fromkeys((self.classifier, *self.against)))

    def on(self, ray: Any) -> Models:
        """The same with the GPUs known that the cluster has for them."""
        return replace(self, placement=settled(ray, self.placement))

    def load_sampler(self) -> Sampler:
        """The sampler, on a worker's device."""
        from whylens.diffusion import load_sampler

        return load_sampler(self.sampler, self.placement.device)

    def load_classifiers(self) -> dict[str, Classifier]:
        """The classifiers by name, on a worker's device."""
        from whylens.classifiers import load_classifier

        return {name: load_classifier(name, self.placement.device) for name in self.classifiers}
