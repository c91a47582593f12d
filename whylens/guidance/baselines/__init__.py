"""Earlier methods of visual counterfactuals, with the interface of `counterfactual`."""

from typing import TYPE_CHECKING

from whylens.lazy import lazily

if TYPE_CHECKING:
    from whylens.guidance.baselines.dvce import DvceSettings, diffusion_counterfactual
    from whylens.guidance.baselines.ldce import LdceSettings, latent_counterfactual
    from whylens.guidance.baselines.svce import SvceSettings, pixel_counterfactual

__all__ = [
    "DvceSettings",
    "LdceSettings",
    "SvceSettings",
    "diffusion_counterfactual",
    "latent_counterfactual",
    "pixel_counterfactual",
]

__getattr__ = lazily(
    __name__,
    {
        **dict.fromkeys(("DvceSettings", "diffusion_counterfactual"), "dvce"),
        **dict.fromkeys(("LdceSettings", "latent_counterfactual"), "ldce"),
        **dict.fromkeys(("SvceSettings", "pixel_counterfactual"), "svce"),
    },
)
