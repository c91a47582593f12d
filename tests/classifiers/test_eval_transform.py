"""Photographs reach a classifier as its own library shows them, pixel by pixel."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from open_clip.transform import image_transform
from PIL import Image
from timm.data import create_transform
from torchvision.transforms._presets import ImageClassification
from torchvision.transforms.functional import InterpolationMode

from whylens.classifiers import timm_models, zero_shot
from whylens.errors import UsageError
from whylens.images.eval_transform import EvalTransform

from .conftest import odd_images

MEAN, STD = (0.1, 0.4, 0.7), (0.2, 0.5, 0.25)


def same(ours: EvalTransform, theirs: Callable[[Image.Image], object]) -> None:
    """That the other transform, up to its normalisation, gives the same levels."""
    for image in odd_images():
        wanted = np.asarray(theirs(Image.fromarray(image)), np.float64)
        levels = np.asarray(MEAN)[:, None, None], np.asarray(STD)[:, None, None]
        pixels = np.rint((wanted * levels[1] + levels[0]) * 255).transpose(1, 2, 0)
        found = ours(image)
        assert found.shape == (ours.size, ours.size, 3)
        assert np.array_equal(found, pixels), image.shape


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize(
    ("crop_pct", "interpolation"), [(0.875, "bilinear"), (0.95, "bicubic"), (1.0, "lanczos")]
)
def test_timms_crop_is_timms(crop_mode: str, crop_pct: float, interpolation: str) -> None:
    config = {
        "input_size": (3, 33, 33), "crop_pct": crop_pct, "crop_mode": crop_mode,
        "interpolation": interpolation, "mean": MEAN, "std": STD,
    }  # fmt: skip
    same(timm_models.eval_transform(config, "x"), create_transform(**config))


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_open_clips_preprocessing_is_open_clips(resize_mode: str, interpolation: str) -> None:
    theirs = image_transform(32, False, MEAN, STD, resize_mode, interpolation, fill_color=40)
    ours = zero_shot.eval_transform(
        {"size": 32, "fill_color": 40, "resize_mode": resize_mode, "interpolation": interpolation},
        "x",
    )
    same(ours, theirs)


def test_a_crop_smaller_than_the_resize_is_torchvisions() -> None:
    theirs = ImageClassification(
        crop_size=28, resize_size=37, mean=MEAN, std=STD, interpolation=InterpolationMode.BILINEAR
    )
    same(EvalTransform(28, 37, "shortest", "bilinear"), theirs)


def test_models_that_look_at_no_squares_are_refused() -> None:
    config = {"input_size": (3, 128, 256), "interpolation": "bicubic"}
    with pytest.raises(UsageError, match="x looks at images of 256 x 128 px: they have to be squ"):
        timm_models.eval_transform(config, "x")
    with pytest.raises(UsageError, match="unknown interpolation, 'random'"):
        timm_models.eval_transform({"input_size": (3, 8, 8), "interpolation": "random"}, "x")
    with pytest.raises(UsageError, match="x looks at images of 16 x 8 px"):
        zero_shot.eval_transform({"size": (8, 16)}, "x")


def test_a_mask_stays_on_what_it_marks() -> None:
    image: NDArray[np.uint8] = np.zeros((60, 90, 3), np.uint8)
    image[20:40, 50:70] = 255
    mask = image[..., 0] > 0
    for transform in (
        EvalTransform(24, 30), EvalTransform(24, 24, "squash"),
        EvalTransform(24, 24, "longest", fill=(255, 255, 255)), EvalTransform(24, 24, "square"),
    ):  # fmt: skip
        shown = transform(image)[..., 0] > 127
        if transform.fit == "longest":
            shown[:4] = shown[-4:] = False  # white borders are no object
        assert np.array_equal(transform.mask(mask), shown)
        assert 9 <= transform.mask(mask).sum() <= 100


def test_the_same_view_in_another_resolution() -> None:
    assert EvalTransform(224, 256, fill=(1, 2, 3)).at(448) == EvalTransform(
        448, 512, fill=(1, 2, 3)
    )
    image = odd_images(1)[0]
    large, small = EvalTransform(24, 30).at(96)(image), EvalTransform(24, 30)(image)
    shrunk = np.asarray(Image.fromarray(large).resize((24, 24), Image.Resampling.BOX), np.int64)
    assert np.abs(shrunk - small).mean() < 12
