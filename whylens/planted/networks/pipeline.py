"""The planted text-to-image model: an ordinary diffusers StableDiffusionPipeline, only small.

Images 64 x 64, latents 12 x 16 x 16, captions of at most 16 words from a closed vocabulary.
"""

import itertools
import json
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from whylens.planted.drawing.world import BACKGROUNDS, COMPANIONS, OBJECTS

CAPTION_LENGTH = 16
LATENT_CHANNELS = 12
TEXT_WIDTH = 64
TRAIN_STEPS = 1000

AUTOENCODER: dict[str, Any] = {
    "block_out_channels": (12, 24, 64),
    "latent_channels": LATENT_CHANNELS,
    "layers_per_block": 1,
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "norm_num_groups": 4,
    "sample_size": 64,
    "mid_block_add_attention": False,
}
# A decoder of plain convolutions; the encoder is never asked.
PREVIEW: dict[str, Any] = {
    "latent_channels": LATENT_CHANNELS,
    "encoder_block_out_channels": (4, 4, 4),
    "num_encoder_blocks": (1, 1, 1),
    "decoder_block_out_channels": (16, 16, 16),
    "num_decoder_blocks": (1, 1, 1),
}
UNET: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "block_out_channels": (32, 64, 128),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": TEXT_WIDTH,
    # diffusers reads this as the number of heads (as in Stable Diffusion 1.x's own config).
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
TEXT_ENCODER: dict[str, Any] = {
    "hidden_size": TEXT_WIDTH,
    "intermediate_size": 2 * TEXT_WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": CAPTION_LENGTH,
}


def words() -> list[str]:
    """The closed vocabulary of captions."""
    return sorted({"a", "photo", "of", "on", "with", *OBJECTS, *BACKGROUNDS, *COMPANIONS})


def _merge_order() -> list[str]:
    """Words in an order of byte pair merges that leaves every word whole.

    A word is merged from its left. One that holds another's first two letters further in has to be
    merged before it, or those letters would be taken out of its middle.
    """
    pairs = {w: [*itertools.pairwise(w[:-1]), (w[-2:], "")] for w in words()}
    order: TopologicalSorter[str] = TopologicalSorter()
    for word in words():
        if len(word) > 1:
            first = pairs[word][0]
            order.add(word, *(w for w in words() if len(w) > 1 and first in pairs[w][1:]))
    return [*order.static_order(), *(w for w in words() if len(w) == 1)]


def build_tokenizer(folder: Path) -> Any:
    """A CLIPTokenizer whose tokens are whole words; written to `folder`, then read from there."""
    from transformers import CLIPTokenizer

    tokens = ["<|startoftext|>", "<|endoftext|>", *(f"{w}</w>" for w in words())]
    letters = sorted({c for w in words() for c in w})
    tokens += [*letters, *(f"{c}</w>" for c in letters if f"{c}</w>" not in tokens)]
    merges = []
    for word in _merge_order():
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            merges.append(f"{pieces[0]} {pieces[1]}")
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
            if pieces[0] not in tokens:
                tokens.append(pieces[0])
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    unique = list(dict.fromkeys(merges))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(unique) + "\n")
    return CLIPTokenizer(
        str(folder / "vocab.json"),
        str(folder / "merges.txt"),
        model_max_length=CAPTION_LENGTH,
        pad_token="<|endoftext|>",
    )


def build_autoencoder() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(**AUTOENCODER)


def build_preview() -> Any:
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(**PREVIEW)


def build_unet() -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**UNET)


def build_text_encoder(tokenizer: Any) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **TEXT_ENCODER,
    )
    return CLIPTextModel(config)


def build_scheduler() -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=TRAIN_STEPS,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
        # Of no effect with trailing steps; diffusers warns of any other value.
        steps_offset=1,
    )


def assemble(tokenizer: Any, text_encoder: Any, autoencoder: Any, unet: Any) -> Any:
    """The StableDiffusionPipeline of its parts, without a safety checker."""
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
