"""Pipelines of public models' shapes with random weights: for measuring speed and memory.

The configurations are those that the models' folders have; what weights say changes no time.
"""

import importlib
from typing import Any

import torch

from whylens.errors import UsageError
from whylens.planted.networks import WEIGHTS

Config = dict[str, Any]

BETAS: Config = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
AUTOENCODER: Config = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
}
CLIP_LARGE: Config = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
}
CLIP_BIG: Config = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
SD14: Config = {
    "unet": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    "vae": {**AUTOENCODER, "scaling_factor": 0.18215},
    "text_encoder": CLIP_LARGE,
}
SDXL: Config = {
    "unet": {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "transformer_layers_per_block": (1, 2, 10),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 1280 + 6 * 256,
    },
    "vae": {**AUTOENCODER, "scaling_factor": 0.13025, "sample_size": 1024, "force_upcast": True},
    "text_encoder": CLIP_LARGE,
    "text_encoder_2": CLIP_BIG,
}
# Stable Diffusion 3 medium, without its third text encoder.
SD3: Config = {
    "transformer": {
        "sample_size": 128,
        "num_layers": 24,
        "num_attention_heads": 24,
        "caption_projection_dim": 1536,
        "pos_embed_max_size": 192,
    },
    "vae": {
        **AUTOENCODER,
        "latent_channels": 16,
        "scaling_factor": 1.5305,
        "shift_factor": 0.0609,
        "sample_size": 1024,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
    "text_encoder": CLIP_LARGE,
    "text_encoder_2": CLIP_BIG,
}
# Stable Diffusion's blocks at 64 px: whether a path runs is tried on it.
TINY: Config = {
    "unet": {
        "sample_size": 8,
        "block_out_channels": (32, 64),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": 64,
        "attention_head_dim": 4,
    },
    "vae": {**AUTOENCODER, "block_out_channels": (32, 32, 64, 64), "sample_size": 64},
    "text_encoder": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "projection_dim": 64,
    },
}
MODELS = {"sd14": SD14, "sdxl": SDXL, "sd3": SD3, "tiny": TINY}
# Tokens of a prompt, as CLIP's text encoders take them.
LENGTH = 77


def require_model(model: str) -> None:
    """UsageError where there is no such model."""
    if model not in MODELS:
        raise UsageError(f"there is no random:{model}; there are: {', '.join(MODELS)}")


def random_pipeline(model: str, dtype: torch.dtype, device: str | torch.device) -> Any:
    """A diffusers pipeline of a model's shapes, its weights drawn on the device.

    Parameters
    ----------
    model
        sd14 (Stable Diffusion 1.4), sdxl, sd3 (Stable Diffusion 3 medium), or tiny.
    dtype
        Of all parts.

    Raises
    ------
    UsageError
        If there is no such model.
    """
    require_model(model)
    diffusers, transformers = (importlib.import_module(n) for n in ("diffusers", "transformers"))
    config, device = MODELS[model], torch.device(device)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(
        WEIGHTS / "pipeline" / "tokenizer", model_max_length=LENGTH
    )
    # What is drawn elsewhere does not depend on this.
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.device(device):
        torch.manual_seed(0)
        flow = "transformer" in config
        projected = transformers.CLIPTextModelWithProjection
        first = projected if flow else transformers.CLIPTextModel
        parts: Config = {
            "vae": diffusers.AutoencoderKL(**config["vae"]),
            "text_encoder": first(_text_config(tokenizer, config["text_encoder"])),
        }
        if flow:
            parts["transformer"] = diffusers.SD3Transformer2DModel(**config["transformer"])
        else:
            parts["unet"] = diffusers.UNet2DConditionModel(**config["unet"])
        if large := "text_encoder_2" in config:
            parts["text_encoder_2"] = projected(_text_config(tokenizer, config["text_encoder_2"]))
    # diffusers' own `to` warns of parts that were to stay float32; none is.
    parts = {name: torch.nn.Module.to(part, dtype) for name, part in parts.items()}
    if flow:
        return diffusers.StableDiffusion3Pipeline(
            **parts,
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            tokenizer_3=None,
            text_encoder_3=None,
        )
    if large:
        scheduler = diffusers.EulerDiscreteScheduler(
            **BETAS, timestep_spacing="leading", steps_offset=1
        )
        return diffusers.StableDiffusionXLPipeline(
            **parts,
            scheduler=scheduler,
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            force_zeros_for_empty_prompt=True,
            add_watermarker=False,
        )
    return diffusers.StableDiffusionPipeline(
        **parts,
        scheduler=diffusers.DDIMScheduler(
            **BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1
        ),
        tokenizer=tokenizer,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _text_config(tokenizer: Any, sizes: Config) -> Any:
    transformers = importlib.import_module("transformers")
    return transformers.CLIPTextConfig(
        vocab_size=49408,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **sizes,
    )
