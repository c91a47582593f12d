"""Pipeline folders with random weights, small enough to differentiate by hand; one a family."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from whylens.planted.networks.pipeline import (
    CAPTION_LENGTH,
    build_scheduler,
    build_tokenizer,
    words,
)

WIDTH = 16
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}

# The schedulers of the folders of: Stable Diffusion 1.4; the planted world, which predicts v as
# Stable Diffusion 2.x; SDXL; SDXL-Turbo; SD-Turbo.
SCHEDULERS = {
    "epsilon": lambda: PNDMScheduler(
        **BETAS, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1
    ),
    "v_prediction": build_scheduler,
    "xl": lambda: EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1),
    "xl_turbo": lambda: EulerAncestralDiscreteScheduler(**BETAS, timestep_spacing="trailing"),
    "turbo": lambda: EulerDiscreteScheduler(**BETAS, timestep_spacing="trailing", steps_offset=1),
}
FAMILIES = tuple(SCHEDULERS)
# Latent consistency models: with a pipeline of their own, as a U-Net of SDXL, and as one that takes
# no guidance scale (an adapter's, merged into Stable Diffusion).
CONSISTENCY = ("lcm", "xl_lcm", "lcm_adapter")
SCHEDULERS |= {family: lambda: LCMScheduler(**BETAS) for family in CONSISTENCY}
# Stable Diffusion 3 with its three text encoders, and 3.5 without the third.
FLOWS = ("flow", "flow_clip")


def text_encoder(tokenizer: Any, kind: Any, layers: int) -> Any:
    return kind(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=layers,
            num_attention_heads=2,
            max_position_embeddings=CAPTION_LENGTH,
            projection_dim=WIDTH,
        )
    )


def save_flow(folder: Path, *, t5: bool, seed: int = 0) -> Path:
    """Write a Stable Diffusion 3 of 16 x 16 images and 16 x 8 x 8 latents; the folder."""
    tokenizer, third = build_tokenizer(folder / "words"), None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae = AutoencoderKL(
            block_out_channels=(4, 8),
            latent_channels=16,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=2,
            sample_size=16,
            mid_block_add_attention=False,
            use_quant_conv=False,
            use_post_quant_conv=False,
            scaling_factor=5.0,
            shift_factor=0.06,
        )
        transformer = SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=16,
            out_channels=16,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=2 * WIDTH,
            caption_projection_dim=16,
            pooled_projection_dim=2 * WIDTH,
            pos_embed_max_size=8,
            # As 3.5 has it; the norm's float32 is too coarse for differences in float64.
            dual_attention_layers=() if t5 else (0,),
            qk_norm=None if t5 else "rms_norm",
        )
        # It would start from zero, and predict nothing.
        torch.nn.init.normal_(transformer.proj_out.weight, std=0.3)
        encoders = [text_encoder(tokenizer, CLIPTextModelWithProjection, 2) for _ in range(2)]
        if t5:
            vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0)]
            vocabulary += [(f"\u2581{word}", -2.0) for word in words()]
            tokens = T5Tokenizer(vocab=vocabulary, extra_ids=0)
            config = T5Config(
                vocab_size=len(vocabulary), d_model=2 * WIDTH, d_kv=8, d_ff=32, num_layers=1,
                num_heads=2, feed_forward_proj="gated-gelu",
            )  # fmt: skip
            third = (tokens, T5EncoderModel(config))
    pipeline = StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae,
        text_encoder=encoders[0],
        text_encoder_2=encoders[1],
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        tokenizer_3=third and third[0],
        text_encoder_3=third and third[1],
    )
    pipeline.save_pretrained(folder / "pipeline")
    return folder / "pipeline"


def save_pipeline(folder: Path, family: str, *, seed: int = 0) -> Path:
    """Write a pipeline of 16 x 16 images and 3 x 8 x 8 latents, of flows 16 x 8 x 8; the folder."""
    if family in FLOWS:
        return save_flow(folder, t5=family == "flow", seed=seed)
    tokenizer = build_tokenizer(folder / "words")
    large = family.startswith("xl")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae = AutoencoderKL(
            block_out_channels=(4, 8),
            latent_channels=3,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=2,
            sample_size=16,
            mid_block_add_attention=False,
            # Latents of about unit deviation, as a trained pipeline has.
            scaling_factor=5.0,
        )
        sizes = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 4,
            "projection_class_embeddings_input_dim": WIDTH + 6 * 4,
            "use_linear_projection": True,
        }
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=3,
            out_channels=3,
            block_out_channels=(8,),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D",),
            up_block_types=("UpBlock2D",),
            cross_attention_dim=2 * WIDTH if large else WIDTH,
            attention_head_dim=2,
            norm_num_groups=4,
            time_cond_proj_dim=9 if family in ("lcm", "xl_lcm") else None,
            **(sizes if large else {}),
        )
        parts = {
            "vae": vae,
            "unet": unet,
            "scheduler": SCHEDULERS[family](),
            "tokenizer": tokenizer,
            "text_encoder": text_encoder(tokenizer, CLIPTextModel, 2 if large else 1),
        }
        if large:
            second = text_encoder(tokenizer, CLIPTextModelWithProjection, 2)
            pipeline = StableDiffusionXLPipeline(
                **parts, tokenizer_2=tokenizer, text_encoder_2=second
            )
        else:
            kind = LatentConsistencyModelPipeline if family == "lcm" else StableDiffusionPipeline
            pipeline = kind(
                **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
            )
    pipeline.save_pretrained(folder / "pipeline")
    return folder / "pipeline"


def reference_pipeline(folder: Path) -> Any:
    """diffusers' own pipeline of such a folder, with its own deterministic scheduler."""
    missing = (
        ("text_encoder_3", "tokenizer_3") if folder.parent.name.startswith("flow_clip") else ()
    )
    pipeline = DiffusionPipeline.from_pretrained(folder, **dict.fromkeys(missing))
    config = pipeline.scheduler.config
    if isinstance(pipeline.scheduler, LCMScheduler | FlowMatchEulerDiscreteScheduler):
        pass
    elif "Euler" in type(pipeline.scheduler).__name__:
        pipeline.scheduler = EulerDiscreteScheduler.from_config(config)
    else:
        pipeline.scheduler = DDIMScheduler.from_config(config, clip_sample=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
