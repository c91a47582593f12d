"""A captioner is any transformers image-to-text model: here a tiny one, made of a configuration."""

import numpy as np
import pytest

from whylens.errors import UsageError
from whylens.images.captioning import MAX_TOKENS, Captioner

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "fish", "sea", "boat", "on"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a ViT encoder and a BERT decoder that know nine words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        BertConfig,
        BertLMHeadModel,
        PreTrainedTokenizerFast,
        VisionEncoderDecoderModel,
        ViTConfig,
        ViTImageProcessor,
        ViTModel,
    )

    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    encoder = ViTModel(ViTConfig(**size, intermediate_size=16, image_size=16, patch_size=8))
    decoder = BertLMHeadModel(
        BertConfig(
            **size, intermediate_size=16, vocab_size=len(WORDS), is_decoder=True,
            add_cross_attention=True,
        )
    )  # fmt: skip
    whole = VisionEncoderDecoderModel(encoder=encoder, decoder=decoder)
    for part in (whole.config, whole.generation_config):
        part.decoder_start_token_id, part.pad_token_id, part.eos_token_id = 1, 0, 2
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path_factory.mktemp("captioner")
    whole.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        unk_token="[UNK]",
    ).save_pretrained(folder)  # fmt: skip
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder, whole.eval()


def test_captions_are_what_the_model_decodes_greedily(model):
    import torch

    folder, whole = model
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 20, 20, 3), dtype=np.uint8)
    found = Captioner(str(folder))(images)
    assert len(found) == 3
    for image, caption in zip(images, found, strict=True):
        from PIL import Image

        small = Image.fromarray(image).resize((16, 16), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(small)).float().permute(2, 0, 1)[None] / 127.5 - 1
        tokens = [1]
        with torch.no_grad():
            while tokens[-1] != 2 and len(tokens) <= MAX_TOKENS:
                logits = whole(pixel_values=pixels, decoder_input_ids=torch.tensor([tokens])).logits
                tokens.append(int(logits[0, -1].argmax()))
        assert caption == " ".join(WORDS[token] for token in tokens if token > 3)
    assert Captioner(str(folder))(images[:0]) == []


def test_a_folder_without_such_a_model_is_one_message(tmp_path):
    with pytest.raises(UsageError, match=r"the captioner .* can't be loaded"):
        Captioner(str(tmp_path))
