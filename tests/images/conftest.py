"""Encoded images of every kind, and files that hold them."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def plain(colour: tuple[int, int, int], size: tuple[int, int] = (6, 4)) -> bytes:
    """A PNG of one colour, `size` is (width, height)."""
    return encoded(Image.new("RGB", size, colour))


def noisy(height: int = 40, width: int = 60, seed: int = 0) -> np.ndarray:
    """[height, width, 3] uint8 that does not compress."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def tar(path: Path, files: Sequence[tuple[str, bytes]], mode: Any = "w") -> str:
    with tarfile.open(path, mode) as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return str(path)
