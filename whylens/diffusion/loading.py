"""`load_sampler`: a diffusers pipeline by a URI-like name."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import torch

from whylens.compiled import CompiledBlocks
from whylens.diffusion.attention import no_words
from whylens.diffusion.preview import load_preview
from whylens.diffusion.random_pipelines import random_pipeline, require_model
from whylens.diffusion.sampler import Sampler, decoder_dtype
from whylens.errors import UsageError
from whylens.execution import OPTIONS as EXECUTION
from whylens.execution import PLAIN, Execution, execution
from whylens.planted.networks import WEIGHTS
from whylens.replay import Replayed

PLANTED = WEIGHTS / "pipeline"
RANDOM = "random:"

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
GRAPHS, T5 = "graphs", "t5"
OPTIONS = (
    "dtype", "image_size", "set_alpha_to_one", "negative_prompt", "preview_vae", T5, *EXECUTION,
    GRAPHS,
)  # fmt: skip
TEXT_PARTS = {
    "StableDiffusionPipeline": ("tokenizer", "text_encoder"),
    "LatentConsistencyModelPipeline": ("tokenizer", "text_encoder"),
    "StableDiffusionXLPipeline": ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2"),
    # Its third text encoder may be missing: zeros stand in for what it says.
    "StableDiffusion3Pipeline": ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2"),
}
FLOWS = ("StableDiffusion3Pipeline",)
THIRD = {"text_encoder_3": None, "tokenizer_3": None}
SUPPORTED = (
    "a StableDiffusionPipeline (1.x, 2.x, SD-Turbo), a StableDiffusionXLPipeline (SDXL, "
    "SDXL-Turbo), a StableDiffusion3Pipeline (3, 3.5) or a LatentConsistencyModelPipeline is "
    "supported"
)


def load_sampler(
    name: str, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> Sampler:
    """A sampler by name: "planted", a diffusers pipeline folder, or a name on the Hub.

    Speed is measured with random weights in the shapes of a model: "random:sd14", "random:sdxl".

    Parameters
    ----------
    name
        May end with options: NAME?dtype=bfloat16&image_size=512. `dtype` is that of the
        networks (see `Sampler`; half is for GPUs, a CPU is slower at it). `image_size` is
        the side of the images in pixels, where it isn't to be the pipeline's own.
        `set_alpha_to_one`, true or false, is the DDIM schedule's option of that name, where it
        isn't to be the pipeline's own: true ends the chain at its last prediction of x0 (as DiG-IN
        does), false (Stable Diffusion 1.x) short of it, at latents with 0.03 of the noise left.
        `negative_prompt` is what guidance leads away from, where it isn't to be the empty prompt.
        `preview_vae` names a tiny autoencoder that decodes all predictions of x0 but the last
        ("planted", a folder, or a Hub name such as madebyollin/taesd): less work where
        `views.predictions` is above 1, and an approximation.
        `t5`, on (the default) or off, says whether Stable Diffusion 3's largest text encoder is
        loaded; without it prompts are what CLIP says of them, as its authors allow.
        `kernels`, `channels_last` and `compile`, each auto, on or off, say how U-Net and
        autoencoder run (see `whylens.execution`). `graphs`, on or off (the default), says whether
        the U-Net's calls are recorded and replayed as CUDA graphs (see `whylens.replay`).
    dtype
        As the option, which it overrides; `default_dtype` where neither is given, or it is auto.

    Raises
    ------
    UsageError
        If there is no such pipeline, it is of a kind that is not supported, or an option is wrong.
    """
    path, _, query = name.partition("?")
    options = _options(name, query)
    if dtype is None:
        said = options.get("dtype", "auto")
        dtype = default_dtype(device) if said == "auto" else DTYPES[said]
    size = int(options["image_size"]) if "image_size" in options else None
    one, tiny = options.get("set_alpha_to_one"), options.get("preview_vae")
    how = execution(name, options, device)
    pipeline = _pipeline(name, path, dtype, device, t5=options.get(T5, "on") == "on")
    sampler = Sampler(
        name,
        pipeline,
        image_size=size,
        set_alpha_to_one=None if one is None else one == "true",
        negative_prompt=options.get("negative_prompt", ""),
        preview_vae=None if tiny is None else load_preview(name, tiny, pipeline).to(device),
    )
    if how != PLAIN:
        _run_as(sampler, how)
    if options.get(GRAPHS, "off") == "on":
        if sampler.device.type != "cuda" or dtype == torch.float16:
            # Nobody has tried them in float16, where gradients are scaled around each call.
            raise UsageError(f"{name}: {GRAPHS}=on needs a GPU, and a dtype other than float16")
        sampler.replayed = Replayed(sampler.call_denoiser)
    return sampler


def check_sampler(name: str, *, words: bool = False) -> None:
    """Look whether there is such a sampler, by its options and its pipeline's description alone.

    No network is loaded, which takes gigabytes; weights that are missing are found when one is.
    `words`: it is to tell where it looks for a word.

    Raises
    ------
    UsageError
        As `load_sampler`, where that can be said without the networks.
    """
    path, _, query = name.partition("?")
    options = _options(name, query)
    execution(name, options, "cpu")
    if path.startswith(RANDOM):
        require_model(path.removeprefix(RANDOM))
        return
    config = _config(name, path)
    kind = str(config["_class_name"])
    if words and kind in FLOWS:
        raise no_words(name)
    _require(name, kind, [part for part in TEXT_PARTS[kind] if (config.get(part) or [None])[0]])
    diffusers = importlib.import_module("diffusers")
    scheduler: Any = getattr(diffusers, str(config["scheduler"][1]), None)
    try:
        noise = scheduler.from_pretrained(_source(path), subfolder="scheduler")
    except Exception as error:
        raise _unloadable(name, error) from error
    _check_noise(name, kind, noise)


def _run_as(sampler: Sampler, how: Execution) -> None:
    from whylens.diffusion.frozen import blocks, freeze_layers, lay_out

    for network in (sampler.denoiser, sampler.vae):
        if how.kernels:
            freeze_layers(network)
        if how.channels_last:
            lay_out(network)
        if how.compile_after is not None:
            sampler.compiled.append(CompiledBlocks(blocks(network), after=how.compile_after))


def default_dtype(device: str | torch.device) -> torch.dtype:
    """bfloat16 on a GPU that calculates in it (of Nvidia's, those since Ampere), else float32."""
    device = torch.device(device)
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
        return torch.bfloat16
    return torch.float32


def _options(name: str, query: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise UsageError(
            f"{name}: unknown option {unknown[0]!r}; {' and '.join(OPTIONS)} go with a sampler"
        )
    if options.get("dtype", "auto") not in ("auto", *DTYPES):
        raise UsageError(
            f"{name}: unknown dtype {options['dtype']!r}; there are {', '.join(DTYPES)}, auto"
        )
    for switch in (GRAPHS, T5):
        if options.get(switch, "off") not in ("on", "off"):
            raise UsageError(f"{name}: {switch} is on or off, not {options[switch]!r}")
    if not options.get("image_size", "1").isdecimal():
        raise UsageError(f"{name}: image_size is a number of pixels, not {options['image_size']!r}")
    if options.get("set_alpha_to_one", "true") not in ("true", "false"):
        raise UsageError(
            f"{name}: set_alpha_to_one is true or false, not {options['set_alpha_to_one']!r}"
        )
    return options


def _pipeline(
    name: str, path: str, dtype: torch.dtype, device: str | torch.device, *, t5: bool
) -> Any:
    if not path.startswith(RANDOM):
        return _load(name, path, dtype, t5=t5).to(device)
    pipeline = random_pipeline(path.removeprefix(RANDOM), dtype, device)
    # diffusers' own `to` warns of parts that were to stay float32; none is.
    torch.nn.Module.to(pipeline.vae, decoder_dtype(dtype))
    return pipeline


def _config(name: str, path: str) -> Any:
    """The description of a pipeline (its model_index.json), of a kind that is supported."""
    if (
        path != "planted"
        and ("/" not in path or path.startswith((".", "/")))
        and not (Path(path) / "model_index.json").is_file()
    ):
        raise UsageError(
            f"no sampler {name!r}: name 'planted', a diffusers pipeline folder (with a "
            "model_index.json), or a Hub name such as owner/name"
        )
    try:
        config = importlib.import_module("diffusers").DiffusionPipeline.load_config(_source(path))
    except Exception as error:
        raise _unloadable(name, error) from error
    if (kind := str(config.get("_class_name"))) not in TEXT_PARTS:
        raise UsageError(f"the sampler {name!r} is a {kind}: only {SUPPORTED}")
    return config


def _load(name: str, path: str, dtype: torch.dtype, *, t5: bool) -> Any:
    """The pipeline."""
    diffusers = importlib.import_module("diffusers")
    # A bar of half a second for every worker is noise.
    for library in ("diffusers", "transformers"):
        importlib.import_module(f"{library}.utils.logging").disable_progress_bar()
    # Said before gigabytes are read.
    config = _config(name, path)
    kind = str(config["_class_name"])
    left_out: dict[str, Any] = {}
    if kind in FLOWS:
        there = (config.get("text_encoder_3") or [None])[0] is not None
        left_out = {} if t5 and there else THIRD
    elif "XL" not in kind:
        left_out = {"safety_checker": None, "requires_safety_checker": False}
    try:
        pipeline = getattr(diffusers, kind).from_pretrained(
            _source(path),
            dtype={"default": dtype, "vae": decoder_dtype(dtype)},
            **left_out,
        )
    except Exception as error:
        raise _unloadable(name, error) from error
    _require(name, kind, [part for part in TEXT_PARTS[kind] if getattr(pipeline, part) is not None])
    _check_noise(name, kind, pipeline.scheduler)
    return pipeline


def _source(path: str) -> str:
    return str(PLANTED) if path == "planted" else path


def _unloadable(name: str, error: Exception) -> UsageError:
    said = str(error).splitlines()[0] if str(error) else ""
    return UsageError(
        f"the sampler {name!r} can't be loaded by diffusers ({type(error).__name__}: {said})"
    )


def _require(name: str, kind: str, there: Sequence[str]) -> None:
    """UsageError where the pipeline lacks one of its text parts."""
    for part in TEXT_PARTS[kind]:
        if part not in there:
            raise UsageError(f"the sampler {name!r} has no {part}, which a {kind} needs")


def _check_noise(name: str, kind: str, scheduler: Any) -> None:
    """UsageError where a pipeline's noise would give wrong images."""
    diffusers = importlib.import_module("diffusers")
    if kind in FLOWS:
        flow = isinstance(scheduler, diffusers.FlowMatchEulerDiscreteScheduler)
        if not flow or scheduler.config.invert_sigmas:
            inverted = ", with invert_sigmas" if flow else ""
            raise UsageError(
                f"the sampler {name!r} has a {type(scheduler).__name__}{inverted}: a {kind} is "
                "supported with a FlowMatchEulerDiscreteScheduler that goes from noise to image"
            )
        return
    consistency = isinstance(scheduler, diffusers.LCMScheduler)
    if not consistency and diffusers.DDIMScheduler not in scheduler.compatibles:
        raise UsageError(
            f"the sampler {name!r} has a {type(scheduler).__name__}, which neither DDIM "
            f"nor Euler can stand in for: only {SUPPORTED} whose noise is theirs"
        )
    prediction = scheduler.config.prediction_type
    if prediction not in ("epsilon", "v_prediction"):
        raise UsageError(
            f"the sampler {name!r} predicts {prediction!r}: only a U-Net that predicts "
            "epsilon or v_prediction is supported"
        )
