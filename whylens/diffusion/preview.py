"""`preview_vae`: a tiny autoencoder that decodes all predictions but the last.

Where the loss is taken on several predictions of x0, an image's own decoder is asked for each of
them, only to say where the earlier ones should go. A tiny autoencoder (TAESD and its kin, class
AutoencoderTiny of diffusers) says nearly the same for a fraction of the work. The last prediction,
the image that is shown and judged, is always decoded by the pipeline's own.

An approximation. On the planted world (tests/benchmarks/preview.py, 16 problems, the loss on three
predictions), own decoder first, with previews second:

    T = 10, 6 optimisation steps    mean loss 5.5, 6.8   flipped 3, 3   seen by a judge 1, 0
    T = 4, 14 optimisation steps    mean loss 1.9, 1.6   flipped 9, 8   seen by a judge 5, 5

So few problems show no cost beyond chance, nor exclude one. The gain there is small, since the
planted decoder is: the tiny one takes 1 / 2.4 to 1 / 3.3 of its time, holds 1 / 4.2 of its bytes,
and makes an optimisation 1.12 times as fast; earlier predictions come out 25 dB from the own
decoder's. What TAESD gains and costs at Stable Diffusion's size is not measured here.
"""

import importlib
from pathlib import Path
from typing import Any

from whylens.errors import UsageError
from whylens.planted.networks import WEIGHTS

PLANTED = WEIGHTS / "preview"


def load_preview(sampler: str, name: str, pipeline: Any) -> Any:
    """A tiny autoencoder by name, in the dtype of the pipeline's own: "planted", folder, Hub name.

    Raises
    ------
    UsageError
        If there is none of that name, or it decodes latents or makes images of another size than
        the pipeline's own.
    """
    diffusers = importlib.import_module("diffusers")
    source = str(PLANTED) if name == "planted" else name
    local = Path(source).exists() or "/" not in source or source.startswith((".", "/"))
    if not name or (local and not (Path(source) / "config.json").is_file()):
        raise UsageError(
            f"{sampler}: no preview_vae {name!r}: name 'planted', a folder of an AutoencoderTiny "
            "(with a config.json), or a Hub name such as madebyollin/taesd"
        )
    try:
        kind = str(diffusers.AutoencoderTiny.load_config(source).get("_class_name"))
        if kind != "AutoencoderTiny":
            raise UsageError(
                f"{sampler}: preview_vae {name!r} is of the class {kind}, not AutoencoderTiny"
            )
        tiny = diffusers.AutoencoderTiny.from_pretrained(source, dtype=pipeline.vae.dtype)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"{sampler}: preview_vae {name!r} can't be loaded by diffusers "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
        ) from error
    _check(sampler, name, tiny.config, pipeline)
    return tiny.requires_grad_(False).eval()


def _check(sampler: str, name: str, config: Any, pipeline: Any) -> None:
    own = (int(pipeline.vae.config.latent_channels), int(pipeline.vae_scale_factor))
    doublings = len(config.decoder_block_out_channels) - 1
    found = (int(config.latent_channels), int(config.upsampling_scaling_factor) ** doublings)
    if found != own:
        raise UsageError(
            f"{sampler}: preview_vae {name!r} decodes latents of {found[0]} channels to {found[1]} "
            f"times their side, the sampler's own {own[0]} channels to {own[1]} times"
        )
