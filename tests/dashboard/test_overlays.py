"""What is laid over a changed image shows where it changed, and where it could."""

import io

import numpy as np
from PIL import Image

from whylens.dashboard.overlays import TINT, changed, may_change
from whylens.images.decoding import decode
from whylens.images.tensors import to_png

PICTURE = np.full((8, 8, 3), (200, 100, 50), np.uint8)


def half() -> bytes:
    """White on the left, black on the right, at twice the picture's size."""
    mask = np.zeros((16, 16), np.uint8)
    mask[:, :8] = 255
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return buffer.getvalue()


def test_what_changed_is_vermilion_and_the_rest_is_grey() -> None:
    shown = decode(changed(to_png(PICTURE), half()) or b"")
    np.testing.assert_allclose(shown[:, 0], np.broadcast_to(TINT, (8, 3)), atol=1)
    assert np.ptp(shown[:, 7].astype(int), axis=-1).max() == 0


def test_what_could_change_is_as_it_is_and_the_rest_is_faded() -> None:
    shown = decode(may_change(to_png(PICTURE), half()) or b"")
    np.testing.assert_array_equal(shown[:, 0], PICTURE[:, 0])
    assert np.ptp(shown[:, 7].astype(int), axis=-1).max() == 0


def test_bytes_that_are_no_picture_give_nothing() -> None:
    assert changed(b"no picture", half()) is None
    assert may_change(to_png(PICTURE), b"") is None
