"""Splits of the planted world as collections; images are drawn when they are loaded."""

import numpy as np
from numpy.typing import NDArray

from whylens.errors import UsageError
from whylens.images.collection import ImageCollection
from whylens.images.listing import ImageRecord, Records
from whylens.planted.drawing.world import SPLITS, Scene, draw, sample_scene


class PlantedCollection(ImageCollection):
    """planted:<split>?count=2000&seed=0."""

    def __init__(self, uri: str, split: str, options: dict[str, str]) -> None:
        if split not in SPLITS:
            raise UsageError(f"no planted split {split!r}; there are: {', '.join(SPLITS)}")
        unknown = set(options) - {"count", "seed"}
        if unknown:
            raise UsageError(f"{uri}: unknown option {sorted(unknown)[0]!r}; count and seed go")
        try:
            count, seed = int(options.get("count", 2000)), int(options.get("seed", 0))
        except ValueError:
            raise UsageError(f"{uri}: count and seed are whole numbers") from None
        if count < 1 or seed < 0:
            raise UsageError(f"{uri}: count is at least 1 and seed at least 0")
        self.uri, self.split, self._seed = uri, split, seed
        scenes = [
            (scene.object, scene.caption)
            for scene in (
                sample_scene(split, seed, index)  # type: ignore[arg-type]
                for index in range(count)
            )
        ]
        self.records = Records(
            [f"{split}-{seed}-{index:06d}" for index in range(count)],
            f"planted:{split}?seed={seed}#",
            tails=[str(index) for index in range(count)],
            classes=[name for name, _ in scenes],
            captions=[caption for _, caption in scenes],
            place=(range(count),),
        )

    def scene(self, record: ImageRecord) -> Scene:
        """What an image shows."""
        (index,) = record.place
        return sample_scene(self.split, self._seed, index)  # type: ignore[arg-type]

    def attributes(self) -> dict[str, list[str]]:
        scenes = [self.scene(record) for record in self.records]
        return {
            "background": [scene.background for scene in scenes],
            "companion": [scene.companion or "none" for scene in scenes],
        }

    def load(self, record: ImageRecord) -> NDArray[np.uint8]:
        return draw(self.scene(record)).image

    def object_mask(self, record: ImageRecord) -> NDArray[np.bool_] | None:
        scene = self.scene(record)
        return None if scene.object is None else draw(scene).masks["object"]
