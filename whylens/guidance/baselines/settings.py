"""Settings of the baselines, without torch, so that specs hold them at no cost."""

from pydantic import Field

from whylens.settings import Settings


class SvceSettings(Settings):
    """Settings of SVCE. Defaults: radius 12 at 3 x 224 x 224 (ECCV 2020, section 5), by size."""

    optimisation_steps: int = Field(100, ge=1, description="Gradients taken.")
    radius: float = Field(
        0.031,
        gt=0,
        description="L2 norm of the change, root mean square over the image's numbers (0.031: 12 "
        "at 224 px, 3.4 at 64 px).",
    )


class DvceSettings(Settings):
    """Settings of DVCE; defaults are the paper's."""

    steps: int = Field(200, ge=2, le=1000, description="Denoising steps of the whole chain.")
    start: float = Field(
        0.5, gt=0, le=1, description="The image is noised to this part of the chain."
    )
    class_weight: float = Field(0.1, ge=0, description="Weight of the classifier's direction.")
    distance_weight: float = Field(0.15, ge=0, description="Weight of the distance's direction.")
    angle: float = Field(
        30.0,
        ge=0,
        lt=90,
        description="Half the cone's opening in degrees, around the explained classifier's "
        "gradient; of effect where a robust classifier is given.",
    )


class LdceSettings(Settings):
    """Settings of LDCE; defaults are the paper's for ImageNet, with half its DDIM steps."""

    steps: int = Field(250, ge=2, le=1000, description="DDIM steps of the whole chain.")
    start: float = Field(
        0.382, gt=0, le=1, description="The image is noised to this part of the chain."
    )
    guidance_scale: float = Field(3.0, ge=0, description="Weight of all guidance.")
    class_weight: float = Field(2.3, ge=0, description="Weight of the classifier's direction.")
    distance_weight: float = Field(0.3, ge=0, description="Weight of the distance's direction.")
    angle: float = Field(
        45.0, ge=0, le=180, description="Largest angle, in degrees, that counts as agreement."
    )


def steps_left(steps: int, start: float) -> int:
    """Steps of a chain of `steps` that are left where it is entered at the part `start` of it."""
    return max(1, round(start * steps))
