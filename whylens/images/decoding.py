"""Bytes to upright RGB pixels, or a reason why not."""

import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from whylens.images.collection import RejectedImageError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"})
# Larger images are taken for decompression bombs: 100 megapixels, 300 MB decoded.
MAX_PIXELS = 100_000_000


def decode(data: bytes, most_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Encoded image -> [H, W, 3] uint8.

    EXIF rotation is applied; transparency is laid on white; greyscale, palette, CMYK and 16-bit
    images become 8-bit RGB; of an animation, the first frame counts. More than
    `most_pixels` are not decoded.

    Raises
    ------
    RejectedImageError
        With the reason.
    """
    if not data:
        raise RejectedImageError("empty file")
    try:
        with warnings.catch_warnings():
            # Pillow's own limit warns; ours, below, decides.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image: Image.Image = Image.open(io.BytesIO(data))
        width, height = image.size
        if width * height > most_pixels:
            raise RejectedImageError(
                f"too large: {width} x {height} is more than {most_pixels // 1_000_000} megapixels"
            )
        image.seek(0) if getattr(image, "n_frames", 1) > 1 else None
        image.load()
        return np.asarray(_to_rgb(_upright(image)))
    except RejectedImageError:
        raise
    except UnidentifiedImageError:
        raise RejectedImageError("not an image that Pillow can read") from None
    except Image.DecompressionBombError:
        raise RejectedImageError("too large: a decompression bomb") from None
    except OSError as error:
        kind = "truncated" if "truncated" in str(error) else "corrupt"
        raise RejectedImageError(f"{kind}: {error}") from None
    except Exception as error:  # decoders raise nearly anything on broken bytes
        raise RejectedImageError(f"corrupt: {type(error).__name__}: {error}") from None


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # nearly anything, on broken metadata: the pixels are still good
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        pixels = np.asarray(image, dtype=np.float64)
        highest = pixels.max(initial=0)
        if image.mode.startswith("I;16") or highest > 255:
            top = 65535.0
        else:  # wider types don't say their range: 0 to 1, or 0 to 255
            top = 1.0 if image.mode == "F" and highest <= 1 else 255.0
        grey = np.clip(np.round(pixels * (255.0 / top)), 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
