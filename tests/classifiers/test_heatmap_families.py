"""Heat maps by each family's own way, on planted truth and on networks that attend one patch."""

import numpy as np
import pytest
import timm
import torch
from torch.nn import functional as F

from whylens.classifiers import load_classifier
from whylens.classifiers.heatmap import component_heatmap, points_inside, share_inside
from whylens.classifiers.timm_models import wrap
from whylens.classifiers.zero_shot import ZeroShotClassifier
from whylens.images.eval_transform import EvalTransform
from whylens.images.tensors import to_batch
from whylens.planted.drawing.world import Scene, draw


def scenes(kind, count=24, **scene):
    """Images [N, 3, 64, 64] and masks [N, 64, 64] of one kind of thing in scenes."""
    made = [draw(Scene(look=(7, i), **scene)) for i in range(count)]
    masks = torch.from_numpy(np.stack([d.masks[kind] for d in made]))
    return to_batch(np.stack([d.image for d in made]), slice(None)), masks


def against_others(classifier, name):
    """The class's row of the head, less the mean row: what sets it apart."""
    weight = classifier.head.weight
    return weight[classifier.class_index(name)] - weight.mean(0)


@pytest.mark.parametrize(
    ("name", "thing", "companion"),
    [("biased", "ring", "balloon"), ("biased", "mushroom", "flower"), ("biased", "arrow", "crate"),
     ("clip", "ring", "balloon"), ("clip", "mushroom", "flower")],
)  # fmt: skip
def test_the_heat_of_a_class_sits_on_its_planted_companion(name, thing, companion):
    # Exact for the biased classifier; GradCAM on a map of 2 x 2 for the CLIP-like one.
    classifier = load_classifier(f"planted:{name}")
    exact = classifier.feature_map(torch.zeros(1, 3, 64, 64)) is not None
    assert exact == (name == "biased")
    images, masks = scenes("companion", object=None, background="desert", companion=companion)
    heat = component_heatmap(classifier, images, against_others(classifier, thing))
    assert heat.shape == (24, 64, 64)
    area = masks.float().mean((1, 2))
    assert (share_inside(heat, masks) / area).nanmedian() > 2.5
    assert points_inside(heat, masks).float().mean() > 0.7


def test_grad_cam_is_the_map_weighed_by_its_mean_gradient():
    torch.manual_seed(0)
    classifier = wrap("test", timm.create_model("test_convnext", num_classes=4), None).eval()
    images, direction = torch.rand(2, 3, 160, 160), torch.randn(classifier.feature_size)
    assert classifier.feature_map(images) is None  # a norm follows the pooling
    kept = []
    last = classifier.model.stages[-1]
    hook = last.register_forward_hook(lambda m, i, out: kept.append(out))
    alpha = classifier.features(images) @ direction
    (gradient,) = torch.autograd.grad(alpha.sum(), kept[0])
    hook.remove()
    cam = (gradient.mean((2, 3), keepdim=True) * kept[0]).sum(1, keepdim=True)
    expected = F.interpolate(cam, (160, 160), mode="bilinear")[:, 0]
    torch.testing.assert_close(
        component_heatmap(classifier, images, direction), expected.detach(), rtol=1e-3, atol=1e-6
    )


def test_a_map_with_channels_last_is_exact_too():
    torch.manual_seed(0)
    model = timm.create_model(
        "swin_tiny_patch4_window7_224", num_classes=3, img_size=64, window_size=2,
        embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2),
        pretrained_cfg_overlay={"input_size": (3, 64, 64)},
    )  # fmt: skip
    classifier = wrap("swin", model, None).eval()
    images, direction = torch.rand(2, 3, 64, 64), torch.randn(classifier.feature_size)
    heat = component_heatmap(classifier, images, direction)
    expected = classifier.features(images) @ direction
    torch.testing.assert_close(heat.mean((1, 2)), expected, rtol=1e-3, atol=1e-4)


# In these transformers a token's channel 0 is how bright its patch is, channel 2 is one. The first
# block's attention, alike for all, writes channel 0 into channel 1, which alone is read.
BRIGHT, READ, ONE, WIDTH = 0, 1, 2, 32


@torch.no_grad()
def attend_brightness(patch_weight, attentions, mlps):
    patch_weight.zero_()
    patch_weight[BRIGHT] = 1.0 / patch_weight[0].numel()
    for number, (inside, outside) in enumerate(attentions):
        for parameter in (*inside, *outside):
            parameter.zero_()
        if number == 0:
            inside[0][2 * WIDTH + BRIGHT, BRIGHT] = 1.0
            outside[0][READ, BRIGHT] = 1.0
    for parameter in mlps:
        parameter.zero_()


def vit(**options):
    model = timm.create_model(
        "test_vit", num_classes=3, img_size=32, patch_size=8, embed_dim=WIDTH, depth=3, num_heads=1,
        pretrained_cfg_overlay={"input_size": (3, 32, 32)}, **options,
    )  # fmt: skip
    attentions = [(tuple(b.attn.qkv.parameters()), tuple(b.attn.proj.parameters())) for b in
                  model.blocks]  # fmt: skip
    mlps = [p for b in model.blocks for p in b.mlp.fc2.parameters()]
    attend_brightness(model.patch_embed.proj.weight, attentions, mlps)
    with torch.no_grad():
        model.patch_embed.proj.bias.zero_()
        model.pos_embed.zero_()
        model.pos_embed[..., ONE] = 1.0
        if model.cls_token is not None:
            model.cls_token.zero_()
    return wrap("vit", model, None).eval(), torch.tensor(0.5)


def clip():
    from open_clip.model import CLIP

    model = CLIP(
        WIDTH,
        {"image_size": 32, "layers": 3, "width": WIDTH, "head_width": WIDTH, "patch_size": 8},
        {"context_length": 4, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1},
    ).eval()
    visual = model.visual
    blocks = visual.transformer.resblocks
    attentions = [
        ((b.attn.in_proj_weight, b.attn.in_proj_bias), tuple(b.attn.out_proj.parameters()))
        for b in blocks
    ]
    mlps = [p for b in blocks for p in b.mlp.c_proj.parameters()]
    attend_brightness(visual.conv1.weight, attentions, mlps)
    with torch.no_grad():
        visual.class_embedding.zero_()
        visual.positional_embedding.zero_()
        visual.positional_embedding[:, ONE] = 1.0
        visual.proj.copy_(torch.eye(WIDTH))
    grey = (0.48, 0.46, 0.41)
    classifier = ZeroShotClassifier(
        "clip",
        model,
        ("a",),
        torch.eye(WIDTH)[:1],
        EvalTransform(32, 32),
        mean=grey,
        std=(0.5,) * 3,
    )
    return classifier.eval(), torch.tensor(grey).view(3, 1, 1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: vit(),
        lambda: vit(global_pool="avg", class_token=False, reg_tokens=0),
        clip,
    ],
    ids=["class token", "average", "open_clip"],
)
def test_a_transformer_s_heat_sits_on_the_one_patch_that_counts(make):
    torch.manual_seed(0)
    classifier, grey = make()
    classifier.requires_grad_(False)
    places = ((1, 2), (3, 0))
    plain = grey.expand(2, 3, 32, 32)
    images = plain.clone()
    for image, (row, column) in zip(images, places, strict=True):
        image[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 1.0
    direction = torch.zeros(WIDTH)
    direction[READ] = 1.0
    rise = classifier.features(images) - classifier.features(plain)
    assert (rise @ direction > 0.01).all()
    heat = component_heatmap(classifier, images, direction)
    assert heat.shape == (2, 32, 32)
    for one, (row, column) in zip(heat, places, strict=True):
        coarse = one.reshape(4, 8, 4, 8).mean((1, 3))
        assert coarse.argmax() == 4 * row + column
        # Bilinear enlarging spreads it over neighbours; beyond, there is none.
        far = torch.ones(4, 4)
        far[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = 0
        assert (coarse * far).abs().max() < 1e-3 * coarse.max()
    # alpha has no unit, and hooks are gone: the next call says the same.
    torch.testing.assert_close(component_heatmap(classifier, images, 50 * direction), heat)
    # For the opposite, the rest counts, and this patch gets none of its own.
    opposite = component_heatmap(classifier, images, -direction)
    for one, (row, column) in zip(opposite, places, strict=True):
        assert one[8 * row + 4, 8 * column + 4] < 0.2 * one.max()  # of the neighbours


def test_reading_attention_leaves_the_network_as_it_was():
    torch.manual_seed(1)
    classifier = wrap("vit", timm.create_model("test_vit", num_classes=3), None).eval()
    classifier.requires_grad_(False)
    fused = [b.attn.fused_attn for b in classifier.model.blocks]
    images = torch.rand(2, 3, 160, 160)
    before = classifier.features(images)
    heat = component_heatmap(classifier, images, torch.randn(classifier.feature_size))
    assert heat.isfinite().all()
    assert heat.std() > 0
    assert torch.equal(classifier.features(images), before)
    assert [b.attn.fused_attn for b in classifier.model.blocks] == fused
    assert not any(m._forward_hooks for m in classifier.modules())


def test_share_and_pointing_by_hand():
    heat = torch.tensor([[[4.0, -9.0], [1.0, 3.0]], [[-1.0, -2.0], [-3.0, -4.0]]])
    masks = torch.tensor([[[True, True], [False, False]], [[False, True], [True, True]]])
    share = share_inside(heat, masks)
    assert share[0] == 0.5
    assert share[1].isnan()
    assert points_inside(heat, masks).tolist() == [True, False]
    flat = torch.zeros(3, 32, 32)
    flat[:, :11, :11] = 2.0  # its middle is 5, 5; at 32 pixels the margin is 2
    spots = torch.zeros(3, 32, 32, dtype=torch.bool)
    spots[0, 5, 5] = spots[1, 7, 3] = spots[2, 8, 5] = True
    assert points_inside(flat, spots).tolist() == [True, True, False]
