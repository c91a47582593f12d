"""Pixels to tensors and back, and to the small pictures in tables."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from whylens.images.tensors import (
    square,
    thumbnail,
    to_batch,
    to_pixels,
    to_png,
    to_tensor,
    too_small,
)

from .conftest import noisy


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 99))
def test_pixels_survive_the_way_to_a_tensor_and_back(height: int, width: int, seed: int) -> None:
    pixels = noisy(height, width, seed)
    tensor = to_tensor(pixels)
    assert tensor.shape == (3, height, width)
    assert tensor.dtype == torch.float32
    assert np.allclose(tensor.numpy(), pixels.transpose(2, 0, 1) / 255, atol=1e-7)
    assert np.array_equal(to_pixels(tensor), pixels)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(to_png(pixels)))), pixels)


def test_a_batch_is_the_tensors_of_its_rows() -> None:
    images = np.stack([noisy(5, 7, seed) for seed in range(4)])
    rows = np.array([2, 0])
    assert torch.equal(to_batch(images, rows), torch.stack([to_tensor(images[i]) for i in rows]))
    assert torch.equal(to_batch(images, slice(1, 3))[0], to_tensor(images[1]))


def test_a_tensor_out_of_range_is_clipped_and_rounded() -> None:
    values = torch.tensor([-0.5, 0.0, 0.5, 100.4 / 255, 100.6 / 255, 1.0, 7.0])
    image = values.view(1, 1, 7).expand(3, 1, 7)
    assert to_pixels(image)[0, :, 0].tolist() == [0, 0, 128, 100, 101, 255, 255]


def test_a_read_only_image_gives_a_tensor_that_can_be_written_to() -> None:
    pixels = noisy(4, 4)
    pixels.setflags(write=False)
    tensor = to_tensor(pixels)
    tensor.zero_()
    assert pixels.any()


@pytest.mark.parametrize("shape", [(30, 80), (80, 30)])
def test_the_centre_square_is_what_is_resized(shape: tuple[int, int]) -> None:
    pixels = np.zeros((*shape, 3), np.uint8)
    pixels[..., 0] = 255  # red, but for a square of green in the middle
    top, left = (shape[0] - 30) // 2, (shape[1] - 30) // 2
    pixels[top : top + 30, left : left + 30] = (0, 255, 0)
    for size in (10, 30, 45):
        resized = square(pixels, size)
        assert resized.shape == (size, size, 3)
        # Antialiasing looks a pixel or two beyond the edge, as it does inside a picture.
        inside = resized if size == 30 else resized[2:-2, 2:-2]
        assert (inside == (0, 255, 0)).all()
        assert np.abs(resized[2:-2].astype(int) - (0, 255, 0)).mean() < 8
    assert to_tensor(pixels, 10).shape == (3, 10, 10)


def test_an_image_of_the_right_size_is_left_alone() -> None:
    pixels = noisy(16, 16)
    assert np.array_equal(square(pixels, 16), pixels)


@pytest.mark.parametrize(
    ("shape", "size"), [((400, 200), (80, 160)), ((200, 400), (160, 80)), ((50, 30), (30, 50))]
)
def test_a_thumbnail_keeps_its_shape_and_is_never_enlarged(
    shape: tuple[int, int], size: tuple[int, int]
) -> None:
    pixels = np.full((*shape, 3), (200, 100, 50), np.uint8)
    picture = Image.open(io.BytesIO(thumbnail(pixels)))
    assert picture.format == "WEBP"
    assert picture.size == size
    assert np.abs(np.asarray(picture.convert("RGB")).astype(int) - (200, 100, 50)).max() < 6


def test_an_image_of_less_than_half_the_size_is_too_small():
    assert too_small(np.zeros((32, 90, 3), np.uint8), 64) is None
    assert too_small(np.zeros((200, 300, 3), np.uint8), 64) is None
    assert "90 x 31 px" in too_small(np.zeros((31, 90, 3), np.uint8), 64)
    assert "at least 113 px" in too_small(np.zeros((9, 9, 3), np.uint8), 225)
