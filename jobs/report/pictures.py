"""Stored pictures as a page shows them: small, as data URIs, each made once."""

from __future__ import annotations

import base64
import hashlib
import io
import logging
import textwrap
import threading
import warnings
from collections import OrderedDict
from html import escape

from PIL import Image

logger = logging.getLogger(__name__)

# What Pillow raises at bytes that are no picture, or none that is decoded.
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)

# Pictures are shown at 96 to 128 CSS pixels: twice that is sharp on every screen.
SHOWN_PIXELS = 256
# Pixels and bytes of pictures that a page takes as they are, and the formats that browsers know.
LIKE_SHOWN, SMALL, BROWSERS = (192, 320), 24_000, ("WEBP", "PNG", "JPEG")
# Pixels of a picture that is decoded at all, and characters of pictures that are kept.
MOST_PIXELS, KEPT = 50_000_000, 64 * 2**20


def picture(content: bytes | None) -> str:
    """Image bytes as a data URI, re-encoded as WebP at the size that the report shows.

    Small pictures (the planted world's 64 pixels) are enlarged by a good filter here, since
    browsers enlarge badly. In the place of bytes that can't be read stands a picture that says why.
    """
    if not content:
        return BLANK
    key = hashlib.blake2b(content, digest_size=16).digest()
    if (kept := _KEPT.get(key)) is None:
        kept = _shown(content)
        _KEPT.put(key, kept)
    return kept


def data_uri(content: bytes, media_type: str) -> str:
    """The bytes as a data URI (RFC 2397)."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def _shown(content: bytes) -> str:
    try:
        image, kind = decoded(content)
    except UNREADABLE as error:
        logger.warning("a picture of %d bytes can't be shown: %s", len(content), error)
        return placeholder(f"can't be shown: {error}")
    if (
        kind in BROWSERS
        and LIKE_SHOWN[0] <= max(image.size) <= LIKE_SHOWN[1]
        and len(content) <= SMALL
    ):
        return data_uri(content, str(Image.MIME[kind]))
    scale = SHOWN_PIXELS / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(buffer, "WEBP", quality=86, method=2)
    return data_uri(buffer.getvalue(), "image/webp")


def decoded(content: bytes) -> tuple[Image.Image, str]:
    """A stored picture in RGB, and its file's format where that has these very colours, else "".

    Raises
    ------
    UNREADABLE
        If it is no picture, or of more than MOST_PIXELS.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(content)) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                raise ValueError(f"{opened.width} x {opened.height} pixels are too many")
            kind = str(opened.format) if opened.mode == "RGB" else ""
            return opened.convert("RGB"), kind


def placeholder(reason: str) -> str:
    """A picture of a sentence, in the place of one that is not there."""
    # PIL names the buffer that it read from.
    lines = textwrap.wrap(reason.split(" <_io")[0], 22)[:7]
    text = "".join(
        f'<text x="64" y="{40 + 13 * place}">{escape(line)}</text>'
        for place, line in enumerate(lines)
    )
    return data_uri(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 128 128" width="256" height="256">'
        '<rect width="128" height="128" fill="#eeece6"/><g font-family="sans-serif" font-size="10" '
        f'fill="#4a4f57" text-anchor="middle">{text}</g></svg>'.encode(),
        "image/svg+xml",
    )


BLANK = data_uri(b'<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>', "image/svg+xml")


class _Kept:
    """Pictures by their bytes' hash, those longest unused dropped first."""

    def __init__(self, most: int) -> None:
        self._most, self._held = most, 0
        self._pictures: OrderedDict[bytes, str] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: bytes) -> str | None:
        with self._lock:
            if key in self._pictures:
                self._pictures.move_to_end(key)
            return self._pictures.get(key)

    def put(self, key: bytes, shown: str) -> None:
        with self._lock:
            if key not in self._pictures:
                self._held += len(shown)
            self._pictures[key] = shown
            while self._held > self._most:
                self._held -= len(self._pictures.popitem(last=False)[1])


_KEPT = _Kept(KEPT)
