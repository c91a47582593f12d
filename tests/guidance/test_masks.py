"""Masks: morphology as scipy has it, and the object found in the planted world."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from whylens.diffusion import condition, invert, load_sampler
from whylens.diffusion.attention import AttentionMaps
from whylens.diffusion.chain import watch
from whylens.guidance.masks import changed, foreground, with_margin
from whylens.planted.drawing.world import OBJECTS, draw, sample_scene


def disc(radius):
    across = np.arange(-radius, radius + 1)
    return across[:, None] ** 2 + across**2 <= radius**2


def test_a_margin_is_erosion_dilation_and_blur_scaled_with_the_image():
    raw = np.random.default_rng(0).random((2, 256, 256)).astype(np.float32)
    raw = np.stack([ndimage.gaussian_filter(one, 8, mode="nearest") for one in raw])
    raw = (raw - raw.min()) / (raw.max() - raw.min())
    found = with_margin(torch.from_numpy(raw)[:, None], 10 / 256)[:, 0].numpy()
    for one, expected in zip(found, raw, strict=True):
        expected = ndimage.grey_erosion(expected, footprint=disc(2), mode="nearest")
        expected = ndimage.grey_dilation(expected, footprint=disc(10), mode="nearest")
        expected = ndimage.gaussian_filter(expected, 5, truncate=3, mode="nearest")
        np.testing.assert_allclose(one, expected, atol=1e-5)


def test_tokens_that_the_other_prompt_lacks_are_the_words_of_the_object():
    assert changed([0, 5, 7, 1, 1], [0, 5, 9, 9, 1]) == [2]
    assert changed([0, 5, 7, 8, 1], [0, 5, 9, 8, 1, 1, 1]) == [2]
    assert changed([0, 5, 1], [0, 5, 1]) == [0, 1, 2]


@pytest.fixture(scope="module")
def planted():
    return load_sampler("planted")


def masked(planted, drawings):
    """Raw masks [B, 1, 64, 64] of the drawings' objects, and the true ones [B, 64, 64]."""
    images = torch.stack([torch.from_numpy(d.image).permute(2, 0, 1) / 255 for d in drawings])
    truth = torch.stack([torch.from_numpy(d.masks["object"]) for d in drawings])
    prompts = [d.caption for d in drawings]
    others = [
        prompt.replace(d.scene.object, OBJECTS[(OBJECTS.index(d.scene.object) + 3) % len(OBJECTS)])
        for prompt, d in zip(prompts, drawings, strict=True)
    ]
    own = condition(planted, prompts)
    noise, conditioning, _ = invert(
        planted, planted.encode(images), own, steps=6, guidance_scale=3.0
    )
    attention = AttentionMaps(injected_steps=0, word_steps=3)
    trajectory = watch(planted, noise, conditioning, attention, steps=6, guidance_scale=3.0)
    edit = condition(planted, others)
    raw = foreground(planted, trajectory, own, edit, attention, prompts, others)
    return raw, truth


def test_the_mask_of_a_drawings_object_is_nearer_to_it_than_masks_of_other_drawings(planted):
    raw, truth = masked(planted, [draw(sample_scene("clear", 5, place)) for place in range(12)])
    assert raw.shape == (12, 1, 64, 64)
    assert raw.min() >= 0
    assert raw.max() <= 1
    masks = raw[:, 0] > 0.5
    # Objects stand near the middle: any mask there overlaps with any of them, by 0.57 on average.
    strangers = [overlap(masks, truth.roll(turn, 0)).mean() for turn in range(1, 12)]
    assert overlap(masks, truth).mean() > torch.stack(strangers).mean() + 0.07
    # With its margin it holds most of the object and leaves most of the rest alone.
    soft = with_margin(raw, 0.0625)[:, 0]
    assert (soft * truth).sum() > 0.85 * truth.sum()
    assert (soft * ~truth).sum() < 0.3 * (~truth).sum()


def test_masks_find_objects_that_do_not_stand_in_the_middle(planted):
    across = torch.arange(64) - 31.5
    from_middle = across[:, None] ** 2 + across**2

    def off_middle(drawing):
        rows, columns = np.nonzero(drawing.masks["object"])
        return np.hypot(rows.mean() - 31.5, columns.mean() - 31.5)

    drawings = (draw(sample_scene("unlinked", 5, place)) for place in range(60))
    raw, truth = masked(planted, [d for d in drawings if off_middle(d) > 9][:12])
    # The control: a disc in the middle, as large as the object is.
    discs = from_middle < truth.sum((1, 2), keepdim=True) / np.pi
    assert len(discs) == 12
    assert overlap(discs, truth).mean() < 0.35
    assert overlap(raw[:, 0] > 0.5, truth).mean() > overlap(discs, truth).mean() + 0.12


def overlap(one, other):
    """Intersection over union, [B]."""
    return (one & other).sum((1, 2)) / (one | other).sum((1, 2)).clamp_min(1)
