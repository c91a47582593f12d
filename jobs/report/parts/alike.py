"""Real images that fail alike, as the parts on systematic errors and on slices show them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RealImage:
    """A real image that is called a class that it is not of; p is that of the class."""

    image_id: str
    p: float | None
    label: str
    thumb: bytes | None


@dataclass(frozen=True)
class Alike:
    """Images that fail alike: rates are over them and images like them, in [0, 1]."""

    class_name: str
    images: int
    near: int
    rate: float | None
    rate_low: float | None
    rate_high: float | None
    words: tuple[str, ...]
    exemplars: tuple[RealImage, ...]
