"""Drawn images of the planted world as arrays, drawn once and kept on disk for training."""

import logging
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from whylens.planted.drawing.world import (
    BACKGROUNDS,
    COMPANIONS,
    OBJECTS,
    SIZE,
    Scene,
    Split,
    draw,
    sample_scene,
)

logger = logging.getLogger(__name__)

_CHUNK = 1000


@dataclass(frozen=True)
class Drawings:
    """Images [N, 64, 64, 3] uint8 with the index of object, background and companion, each [N].

    An object or a companion that isn't there has the index -1.
    """

    images: NDArray[np.uint8]
    objects: NDArray[np.int64]
    backgrounds: NDArray[np.int64]
    companions: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.images)

    def select(self, rows: NDArray[np.bool_]) -> "Drawings":
        """The drawings for which `rows` [N] is true."""
        return Drawings(
            self.images[rows], self.objects[rows], self.backgrounds[rows], self.companions[rows]
        )

    @property
    def captions(self) -> list[str]:
        return [
            caption(int(o), int(b), int(c))
            for o, b, c in zip(self.objects, self.backgrounds, self.companions, strict=True)
        ]


def caption(object_index: int, background_index: int, companion_index: int) -> str:
    """The caption of a scene given as indices, -1 for what isn't there."""
    return Scene(
        OBJECTS[object_index] if object_index >= 0 else None,
        BACKGROUNDS[background_index],
        COMPANIONS[companion_index] if companion_index >= 0 else None,
        (),
    ).caption


def _draw_chunk(split: Split, seed: int, start: int, stop: int) -> Drawings:
    count = stop - start
    images = np.empty((count, SIZE, SIZE, 3), dtype=np.uint8)
    labels = np.empty((3, count), dtype=np.int64)
    for row, index in enumerate(range(start, stop)):
        scene = sample_scene(split, seed, index)
        images[row] = draw(scene).image
        labels[0, row] = -1 if scene.object is None else OBJECTS.index(scene.object)
        labels[1, row] = BACKGROUNDS.index(scene.background)
        labels[2, row] = -1 if scene.companion is None else COMPANIONS.index(scene.companion)
    return Drawings(images, *labels)


def join(parts: Sequence[Drawings]) -> Drawings:
    """One collection of several."""
    return Drawings(
        np.concatenate([p.images for p in parts]),
        np.concatenate([p.objects for p in parts]),
        np.concatenate([p.backgrounds for p in parts]),
        np.concatenate([p.companions for p in parts]),
    )


def draw_many(
    split: Split, count: int, seed: int, *, folder: Path | None = None, workers: int = 1
) -> Drawings:
    """The first `count` images of (split, seed); kept in `folder`, if given, for the next time."""
    path = None if folder is None else folder / f"{split}-{seed}-{count}.npz"
    if path is not None and path.exists():
        with np.load(path, allow_pickle=False) as kept:
            return Drawings(*(kept[k] for k in ("images", "objects", "backgrounds", "companions")))
    logger.info("drawing %d images of the split %s, seed %d", count, split, seed)
    bounds = [(i, min(i + _CHUNK, count)) for i in range(0, count, _CHUNK)]
    if workers == 1:
        parts = [_draw_chunk(split, seed, a, b) for a, b in bounds]
    else:
        with ProcessPoolExecutor(workers) as pool:
            jobs = [pool.submit(_draw_chunk, split, seed, a, b) for a, b in bounds]
            parts = [job.result() for job in jobs]
    drawn = join(parts)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".tmp")
        with aside.open("wb") as file:
            np.savez(
                file,
                images=drawn.images,
                objects=drawn.objects,
                backgrounds=drawn.backgrounds,
                companions=drawn.companions,
            )
        aside.replace(path)
    return drawn
