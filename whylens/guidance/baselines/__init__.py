"""Earlier methods of visual counterfactuals, with the interface of `counterfactual`."""

from typing import TYPE_CHECKING

from whylens.lazy import lazily

if TYPE_CHECKING:
    from whylens.guidance.baselines.dvce import diffusion_counterfactual
    from whylens.guidance.baselines.ldce import latent_counterfactual
    from whylens.guidance.baselines.settings import DvceSettings, LdceSettings, SvceSettings
    from whylens.guidance.baselines.svce import pixel_counterfactual

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
        **dict.fromkeys(("DvceSettings", "LdceSettings", "SvceSettings"), "settings"),
        "diffusion_counterfactual": "dvce",
        "latent_counterfactual": "ldce",
        "pixel_counterfactual": "svce",
    },
)
