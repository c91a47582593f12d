"""What is measured: networks of a size, the published settings, and a batch of problems."""

from dataclasses import dataclass, replace
from typing import Any

from whylens.errors import UsageError
from whylens.guidance.settings import GuidanceSettings

PROMPT = "a photo of a fish"
# DiG-IN's, on Stable Diffusion (section 3); a view is at least of the classifier's size.
PUBLISHED: dict[str, Any] = {
    "chain": {"steps": 20, "guidance_scale": 3.0},
    "optimiser": {"learning_rate": 0.01, "latents_factor": 0.1},
    "views": {"predictions": 3, "cutouts": 16, "smallest": 224 / 512, "noise": 0.005},
}


@dataclass(frozen=True)
class Setup:
    """A batch of problems that is optimised to be timed.

    sampler, classifier
        Names of what is loaded.
    batch
        Problems at a time.
    guidance
        The settings, of both.
    """

    sampler: str
    classifier: str
    batch: int
    guidance: GuidanceSettings

    @property
    def plain(self) -> "Setup":
        """One problem in float32, networks as their libraries have them: for the reference loop."""
        # Of an option that is given twice the last counts.
        sampler, classifier = (
            f"{name}{'&' if '?' in name else '?'}kernels=off&channels_last=off&compile=off"
            for name in (self.sampler, self.classifier)
        )
        sampler = f"{sampler}&graphs=off&dtype=float32"
        return replace(self, sampler=sampler, classifier=classifier, batch=1)

    def timed(self, steps: int) -> GuidanceSettings:
        """The settings with so many optimisation steps."""
        optimiser = self.guidance.optimiser.model_copy(update={"steps": steps})
        return self.guidance.model_copy(update={"optimiser": optimiser})


def _published(**changed: dict[str, Any]) -> GuidanceSettings:
    groups = {name: {**group, **changed.get(name, {})} for name, group in PUBLISHED.items()}
    return GuidanceSettings.model_validate(groups)


SIZES = {
    "planted": Setup(
        sampler="planted",
        classifier="planted:biased",
        batch=8,
        guidance=GuidanceSettings(),
    ),
    "sd14": Setup(
        sampler="random:sd14",
        classifier="random:resnet50",
        batch=4,
        guidance=_published(),
    ),
    "sdxl": Setup(
        sampler="random:sdxl",
        classifier="random:resnet50",
        batch=1,
        guidance=_published(views={"smallest": 224 / 1024}),
    ),
    # Whether the path of the others runs.
    "tiny": Setup(
        sampler="random:tiny",
        classifier="random:test_resnet",
        batch=2,
        guidance=_published(chain={"steps": 4}, views={"cutouts": 2}),
    ),
}


def setup_of(size: str, *, batch: int | None = None, sampler: str | None = None) -> Setup:
    """The setup of a size, with another batch or sampler where one is given.

    Raises
    ------
    UsageError
        If there is no such size.
    """
    if size not in SIZES:
        raise UsageError(f"there is no size {size!r}; sizes: {', '.join(SIZES)}")
    setup = SIZES[size]
    return replace(setup, batch=batch or setup.batch, sampler=sampler or setup.sampler)
