"""A segmenter refines coarse masks: a tiny SAM from a configuration, and one that is known."""

from types import SimpleNamespace

import pytest
import torch

from whylens.errors import UsageError
from whylens.guidance.segment import Segmenter

SIZE = 32


@pytest.fixture(scope="module", params=["SamModel", "SamHQModel"])
def folder(request, tmp_path_factory):
    import transformers

    torch.manual_seed(0)
    vision = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64,
        "patch_size": 8, "output_channels": 16, "window_size": 4, "global_attn_indexes": [1],
        "mlp_dim": 32, "num_pos_feats": 8,
    }  # fmt: skip
    decoder = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_dim": 16,
        "iou_head_hidden_dim": 16,
    }  # fmt: skip
    prompt = {"hidden_size": 16, "image_embedding_size": 8, "image_size": 64, "patch_size": 8}
    kind = request.param
    if kind == "SamHQModel":
        decoder["vit_dim"] = 32
    config = getattr(transformers, kind.replace("Model", "Config"))(
        vision_config=vision, mask_decoder_config=decoder, prompt_encoder_config=prompt
    )
    made = tmp_path_factory.mktemp(kind)
    getattr(transformers, kind)(config).save_pretrained(made)
    transformers.SamImageProcessor(
        size={"longest_edge": 64}, pad_size={"height": 64, "width": 64},
        mask_size={"longest_edge": 16}, mask_pad_size={"height": 16, "width": 16},
    ).save_pretrained(made)  # fmt: skip
    return str(made)


def square_mask(top, left, side):
    mask = torch.zeros(1, SIZE, SIZE)
    mask[:, top : top + side, left : left + side] = 0.9
    return mask


def test_masks_keep_their_shape_and_an_empty_one_stays(folder):
    segmenter = Segmenter(folder)
    images = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    masks = torch.stack([square_mask(4, 8, 12), torch.zeros(1, SIZE, SIZE)])
    refined = segmenter.refine(images, masks)
    assert refined.shape == masks.shape
    assert torch.equal(refined[1], masks[1])


def test_the_outline_that_overlaps_most_is_taken_and_a_strange_one_is_not(folder):
    segmenter = Segmenter(folder)
    asked = {}

    def known(**inputs):
        """Three outlines at a quarter of the model's 64 px: elsewhere, the object, everything."""
        asked.update(inputs)
        outlines = -torch.ones(1, 1, 3, 16, 16)
        outlines[..., 0, 12:, 12:] = 1
        outlines[..., 1, 2:7, 4:10] = 1
        outlines[..., 2, :, :] = 1
        return SimpleNamespace(pred_masks=outlines)

    known.device, known.dtype = torch.device("cpu"), torch.float32
    segmenter._model = known
    images = torch.zeros(1, 3, SIZE, SIZE)
    refined = segmenter.refine(images, square_mask(4, 8, 12)[None])[0, 0]
    # In pixels of the image, half of the model's: rows 4 to 14, columns 8 to 20.
    assert refined[5:13, 9:19].min() == 1
    assert refined[:, :7].max() == refined[:, 21:].max() == refined[:3].max() == 0
    assert asked["input_boxes"].tolist() == [[[16.0, 8.0, 40.0, 32.0]]]
    column, row = asked["input_points"].flatten().tolist()
    assert 16 < column < 40
    assert 8 < row < 32
    # Nothing that the model sees is there: the coarse mask stays.
    corner = square_mask(0, 24, 6)
    assert torch.equal(segmenter.refine(images, corner[None])[0], corner)


def test_what_is_no_segmenter_is_one_message(tmp_path):
    with pytest.raises(UsageError, match=r"the segmenter .* can't be loaded"):
        Segmenter(str(tmp_path))
