"""What the specs of the guided jobs have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from whylens.cluster.placement import Placement
from whylens.jobs.guided.starts import StartSettings
from whylens.jobs.spec import JobSpec

SamplerName = Annotated[
    str,
    Field(
        description='"planted", a diffusers pipeline folder, or a Hub name; options go behind it: '
        "NAME?dtype=bfloat16&image_size=512."
    ),
]
Against = Annotated[list[str], Field(description="Other classifiers, whose view is noted too.")]


class GuidedSpec(JobSpec):
    """A job that makes or changes images."""

    sampler: SamplerName = "planted"
    placement: Placement = Field(
        default_factory=Placement,
        description="How many workers, with which resources, and where classifiers are.",
    )


class StartingSpec(GuidedSpec):
    """A job whose images start from prompts of findings."""

    starts: StartSettings = Field(
        StartSettings(),
        description="From which prompts images of findings start.",
    )
