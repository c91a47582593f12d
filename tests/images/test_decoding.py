"""Whatever is in an image file, it becomes upright RGB pixels, or a reason why not."""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from whylens.images import RejectedImageError
from whylens.images.decoding import MAX_PIXELS, decode

from .conftest import encoded, noisy, plain


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM"])
def test_pixels_come_back_as_they_were_stored(format: str) -> None:
    pixels = noisy(5, 7)
    decoded = decode(encoded(Image.fromarray(pixels), format))
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, pixels)


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "GIF"])
def test_lossy_formats_come_back_nearly_as_they_were(format: str) -> None:
    pixels = np.broadcast_to(np.linspace(20, 220, 48)[:, None, None], (48, 32, 3)).astype(np.uint8)
    decoded = decode(encoded(Image.fromarray(pixels), format))
    assert decoded.shape == (48, 32, 3)
    assert np.abs(decoded.astype(int) - pixels).mean() < 5


# What each EXIF orientation means: the stored picture, once shown, is turned or mirrored so.
SHOWN = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    8: lambda p: np.rot90(p, 1),
}


@pytest.mark.parametrize("orientation", SHOWN)
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_a_photo_is_turned_upright_as_its_exif_says(orientation: int, format: str) -> None:
    pixels = noisy(4, 7)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(pixels), format, exif=exif)
    assert np.array_equal(decode(data), SHOWN[orientation](pixels))


@pytest.mark.parametrize(
    ("format", "exif"), [("WEBP", b"gar"), ("PNG", b"MM\0*"), ("JPEG", b"Exif\0\0nonsense")]
)
def test_broken_exif_does_not_cost_the_image(format: str, exif: bytes) -> None:
    image = Image.new("RGB", (6, 4), (200, 100, 50))
    decoded = decode(encoded(image, format, exif=exif))
    assert np.abs(decoded.astype(int) - (200, 100, 50)).max() < 8


def test_transparency_is_laid_on_white() -> None:
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0] = [(200, 100, 0, 255), (200, 100, 0, 0), (200, 100, 0, 51)]
    decoded = decode(encoded(Image.fromarray(rgba)))
    mixed = [round(0.2 * c + 0.8 * 255) for c in (200, 100, 0)]
    assert decoded[0, 0].tolist() == [200, 100, 0]
    assert decoded[0, 1].tolist() == [255, 255, 255]
    assert np.abs(decoded[0, 2].astype(int) - mixed).max() <= 1


def test_transparent_grey_and_transparent_palette_are_laid_on_white() -> None:
    grey = Image.new("LA", (2, 2), (0, 0))
    assert (decode(encoded(grey)) == 255).all()
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    decoded = decode(encoded(palette, transparency=0))
    assert decoded.tolist() == [[[255, 255, 255], [0, 0, 255]]]


@pytest.mark.parametrize(
    ("mode", "value", "shown"),
    [("L", 90, 90), ("1", 1, 255), ("1", 0, 0)],
)
def test_greyscale_and_black_and_white_become_rgb(mode: str, value: int, shown: int) -> None:
    decoded = decode(encoded(Image.new(mode, (3, 2), value)))
    assert decoded.shape == (2, 3, 3)
    assert (decoded == shown).all()


def test_a_palette_becomes_its_colours() -> None:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    assert decode(encoded(image)).tolist() == [[[10, 20, 30], [40, 50, 60]]]


@pytest.mark.parametrize("format", ["TIFF", "JPEG"])
def test_cmyk_becomes_rgb(format: str) -> None:
    # No ink but half of yellow: full red and green, half of blue.
    decoded = decode(encoded(Image.new("CMYK", (16, 16), (0, 0, 128, 0)), format))
    assert np.abs(decoded.astype(int) - (255, 255, 127)).max() < 6


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
@pytest.mark.parametrize("value", [0, 200, 32896, 65535])
def test_sixteen_bits_are_scaled_to_eight_however_dark_the_image(format: str, value: int) -> None:
    decoded = decode(encoded(Image.fromarray(np.full((3, 4), value, np.uint16)), format))
    assert decoded.shape == (3, 4, 3)
    assert (decoded == round(value / 257)).all()


@pytest.mark.parametrize(
    ("pixels", "shown"),
    [
        (np.full((2, 2), 0.5, np.float32), 128),
        (np.full((2, 2), 128.0, np.float32), 128),
        (np.full((2, 2), 128, np.int32), 128),
        (np.full((2, 2), 32896, np.int32), 128),
    ],
)
def test_numbers_of_32_bits_are_scaled_by_their_range(pixels: np.ndarray, shown: int) -> None:
    assert (decode(encoded(Image.fromarray(pixels), "TIFF")) == shown).all()


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (5, 3), c) for c in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    for format in ("GIF", "WEBP"):
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
        decoded = decode(data)
        assert decoded.shape == (3, 5, 3)
        assert np.abs(decoded.astype(int) - (255, 0, 0)).max() < 8
    import skimage

    real = (Path(skimage.__file__).parent / "data" / "no_time_for_that_tiny.gif").read_bytes()
    with Image.open(io.BytesIO(real)) as gif:
        assert gif.n_frames > 1  # type: ignore[attr-defined]
        assert decode(real).shape == (gif.height, gif.width, 3)


def header_only(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds ten bytes of pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(10)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(20000, 20000), (10001, 10000), (1, 2**31 - 1)])
def test_a_decompression_bomb_is_refused_before_it_goes_off(width: int, height: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RejectedImageError, match=r"^too large: "):
            decode(header_only(width, height))


def test_an_image_just_within_the_limit_is_not_taken_for_a_bomb() -> None:
    assert MAX_PIXELS == 10000 * 10000
    with pytest.raises(RejectedImageError, match=r"^(truncated|corrupt): "):
        decode(header_only(10000, 10000))


def test_an_empty_file_is_refused() -> None:
    with pytest.raises(RejectedImageError, match=r"^empty file$"):
        decode(b"")


@pytest.mark.parametrize("data", [b"hello", b"<svg></svg>", b"\0" * 500, b"%PDF-1.4 ..."])
def test_a_file_that_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(RejectedImageError, match=r"^not an image"):
        decode(data)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_half_an_image_is_refused(format: str) -> None:
    data = encoded(Image.fromarray(noisy()), format)
    assert decode(data).shape == (40, 60, 3)
    with pytest.raises(RejectedImageError, match=r"^(truncated|corrupt): "):
        decode(data[: len(data) // 2])


def test_a_half_written_photo_is_said_to_be_truncated() -> None:
    data = encoded(Image.fromarray(noisy(200, 200)), "JPEG")
    with pytest.raises(RejectedImageError, match=r"^truncated: image file is truncated"):
        decode(data[: len(data) // 2])


def test_overwritten_bytes_are_said_to_be_corrupt() -> None:
    data = bytearray(encoded(Image.fromarray(noisy())))
    data[200:220] = bytes(20)
    with pytest.raises(RejectedImageError, match=r"^corrupt: "):
        decode(bytes(data))


GOOD = {
    f: encoded(Image.fromarray(noisy(12, 9)), f) for f in ("JPEG", "PNG", "GIF", "WEBP", "TIFF")
}


@given(st.sampled_from(sorted(GOOD)), st.data())
@settings(max_examples=150, deadline=None)
@pytest.mark.filterwarnings("ignore")
def test_any_damage_gives_pixels_or_a_reason(format: str, data: st.DataObject) -> None:
    content = bytearray(GOOD[format])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        pixels = decode(bytes(content))
    except RejectedImageError as error:
        reason = str(error)
    else:
        reason = ""
        assert pixels.dtype == np.uint8
        assert pixels.shape[2:] == (3,)
    known = ("", "corrupt", "truncated", "too large", "not an image that Pillow can read")
    assert reason.split(":")[0] in known


def test_plain_colours_survive_the_helpers_of_these_tests() -> None:
    assert (decode(plain((1, 2, 3))) == (1, 2, 3)).all()
