"""Batches whose parts are as many as their images."""

from collections.abc import Sized


def as_many(images: Sized, **parts: Sized | None) -> None:
    """Raise ValueError, naming the first part that has not one entry an image; None is for all."""
    for name, part in parts.items():
        if part is not None and len(part) != len(images):
            raise ValueError(f"{name} has {len(part)} entries for {len(images)} images")
