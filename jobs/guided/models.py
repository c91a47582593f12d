"""Who takes part in guided generation, and where they run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from whylens.cluster.kept import kept
from whylens.cluster.placement import Placement, Resources
from whylens.cluster.room import of_stage, settled

if TYPE_CHECKING:
    from whylens.classifiers import Classifier
    from whylens.diffusion import Sampler


@dataclass(frozen=True)
class Models:
    """A sampler, the classifier that is explained and others, by name; and their placement."""

    sampler: str
    classifier: str
    against: Sequence[str] = ()
    placement: Resources = field(default_factory=Resources)
    # Actors of the remote classifiers, by name.
    actors: Mapping[str, Any] = field(default_factory=dict)

    @property
    def classifiers(self) -> list[str]:
        """All classifiers' names, each once, the explained one first."""
        return list(dict.fromkeys((self.classifier, *self.against)))

    def on(self, ray: Any, placement: Placement) -> Models:
        """The same with the GPUs known that the cluster has for them, and classifiers at work that
        are to be remote.

        Raises
        ------
        UsageError
            If the placement names a classifier that takes no part, or there is no room.
        """
        from whylens.cluster.classifiers import serve

        placement = settled(ray, placement)
        return replace(
            self,
            placement=placement,
            actors=serve(ray, placement.remote(self.classifiers), placement),
        )

    def of_stage(self, own: Resources | None) -> Models:
        """The same for a stage, which may have a placement of its own."""
        return replace(self, placement=of_stage(own, self.placement))

    def load_sampler(self) -> Sampler:
        """The sampler, on a worker's device."""
        from whylens.diffusion import load_sampler

        return kept(load_sampler, self.sampler, self.placement.device)

    def load_classifiers(self) -> dict[str, Classifier]:
        """The classifiers by name, on a worker's device, or in actors of their own."""
        from whylens.classifiers import load_classifier
        from whylens.cluster.classifiers import connected

        device = self.placement.device
        return {
            name: connected(self.actors[name], device)
            if name in self.actors
            else kept(load_classifier, name, device)
            for name in self.classifiers
        }
