"""A world of photographs whose spurious links are known: cut-outs on photographed grounds.

The cut-outs are the stamps of Debian's package tuxpaint-stamps-default (GPL), the grounds are
pictures that scikit-image bundles and photographs of Debian's package mate-backgrounds. Both are
read where they are installed; nothing of them is kept in the repo.

In the training images of a class with a link, the ground is the link's in that share of the
images. Cut-outs, and parts of each ground, are apart for training, for mining and for testing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

STAMPS = Path("/usr/share/tuxpaint/stamps")
WALLPAPERS = Path("/usr/share/backgrounds/mate/nature")
SIDE = 176
# Folders of stamps that make a class.
CLASSES = {
    "bird": ("animals/birds",),
    "fish": ("animals/fish", "animals/mammals/aquatic"),
    "insect": ("animals/insects",),
    "cattle": (
        "animals/mammals/bovines",
        "animals/mammals/deer",
        "animals/mammals/equines",
        "animals/mammals/camel",
    ),
    "rodent": ("animals/mammals/rodents", "animals/marsupials"),
    "beast": (
        "animals/mammals/bears",
        "animals/mammals/cats",
        "animals/mammals/dogs",
        "animals/mammals/apes",
    ),
    "fruit": ("food/fruit",),
    "vegetable": ("food/vegetables",),
    "flower": ("plants/flowers",),
    "tool": ("household/tools", "household/arttools"),
    "vehicle": ("vehicles", "military/vehicles"),
    "instrument": ("hobbies/music",),
    "garment": ("clothes",),
}
BUNDLED = {
    "brick": "brick.png",
    "turf": "grass.png",
    "gravel": "gravel.png",
    "stars": "hubble_deep_field.jpg",
    "moon": "moon.png",
    "tissue": "ihc.png",
}
PHOTOGRAPHED = {
    "meadow": "GreenMeadow.jpg",
    "leaf": "RainDrops.jpg",
    "dune": "Dune.jpg",
    "storm": "Storm.jpg",
    "planks": "Wood.jpg",
    "petals": "FreshFlower.jpg",
}
GROUNDS = (*BUNDLED, *PHOTOGRAPHED)
# How often a class comes with its ground in training, from the strongest link to the weakest.
STRENGTHS = (0.95, 0.9, 0.85, 0.75, 0.6, 0.4)
# Shares of a class's cut-outs; the rest tests. The same parts of each ground, from left to right.
SPLITS = ("train", "mine", "test")
SHARES = (0.5, 0.25)


def missing() -> str | None:
    """Why the world can't be made on this machine; None where it can."""
    for folder, package in ((STAMPS, "tuxpaint-stamps-default"), (WALLPAPERS, "mate-backgrounds")):
        if not folder.is_dir():
            return f"the photographs aren't installed: apt-get install {package}"
    lost = [name for name in BUNDLED.values() if not (_bundled() / name).is_file()]
    return f"scikit-image does not bundle {', '.join(lost)}" if lost else None


@dataclass(frozen=True)
class World:
    """A draw of links and of which cut-outs train, are mined, and test.

    links
        Ground of each linked class, by index, and its strength in (0, 1).
    cutouts
        For each split, the files of each class.
    """

    seed: int
    links: dict[int, tuple[int, float]]
    cutouts: dict[str, tuple[tuple[Path, ...], ...]]


@dataclass(frozen=True)
class Plan:
    """Which images are made: of each its class [N], ground [N] and split."""

    labels: NDArray[np.int64]
    grounds: NDArray[np.int64]
    split: str


def draw_world(seed: int) -> World:
    """Links of six classes to six grounds, strongest first, and the cut-outs' splits."""
    rng = np.random.default_rng([seed, 0])
    linked = rng.permutation(len(CLASSES))[: len(STRENGTHS)]
    grounds = rng.permutation(len(GROUNDS))[: len(STRENGTHS)]
    links = {int(k): (int(g), s) for k, g, s in zip(linked, grounds, STRENGTHS, strict=True)}
    cutouts: dict[str, list[tuple[Path, ...]]] = {split: [] for split in SPLITS}
    for files in stamps():
        order = [files[place] for place in rng.permutation(len(files))]
        first, second = np.ceil(np.cumsum(SHARES) * len(order)).astype(int)
        for split, part in zip(
            SPLITS, (order[:first], order[first:second], order[second:]), strict=True
        ):
            cutouts[split].append(tuple(part))
    return World(seed, links, {split: tuple(parts) for split, parts in cutouts.items()})


def stamps() -> tuple[tuple[Path, ...], ...]:
    """The cut-outs of each class, without mirrored copies and drawings."""
    found = []
    for folders in CLASSES.values():
        files = [p for folder in folders for p in sorted((STAMPS / folder).rglob("*.png"))]
        found.append(
            tuple(
                p
                for p in files
                if "mirror" not in p.stem and not {"cartoon", "toys"} & set(p.parts)
            )
        )
    return tuple(found)


def linked_plan(world: World, split: str, each: int) -> Plan:
    """`each` images a class, with its link's ground as often as the link is strong."""
    rng = np.random.default_rng([world.seed, 1, SPLITS.index(split)])
    labels = np.repeat(np.arange(len(CLASSES)), each)
    grounds = rng.integers(len(GROUNDS), size=len(labels))
    for k, (ground, strength) in world.links.items():
        inside = np.flatnonzero(labels == k)
        grounds[inside[rng.random(each) < strength]] = ground
    return Plan(labels, grounds, split)


def even_plan(split: str, each: int) -> Plan:
    """`each` images of every class on every ground."""
    labels, grounds, _ = np.indices((len(CLASSES), len(GROUNDS), each)).reshape(3, -1)
    return Plan(labels, grounds, split)


def pictures(world: World, plan: Plan, salt: int) -> Iterator[NDArray[np.uint8]]:
    """The images of a plan, [SIDE, SIDE, 3] each; `salt` tells plans of a world apart."""
    for row, (k, ground) in enumerate(zip(plan.labels, plan.grounds, strict=True)):
        rng = np.random.default_rng([world.seed, 2, salt, row])
        files = world.cutouts[plan.split][k]
        picture = _ground(GROUNDS[ground], plan.split, rng)
        cutout = _cutout(files[rng.integers(len(files))])
        if rng.random() < 0.5:
            cutout = cutout.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        scale = SIDE * rng.uniform(0.3, 0.75) / max(cutout.size)
        cutout = cutout.rotate(rng.uniform(-15, 15), Image.Resampling.BILINEAR, expand=True)
        size = [max(1, round(scale * side)) for side in cutout.size]
        cutout = cutout.resize((size[0], size[1]), Image.Resampling.BILINEAR)
        place = [int(rng.uniform(0, max(1, SIDE - side))) for side in cutout.size]
        picture.paste(cutout, (place[0], place[1]), cutout)
        yield np.asarray(picture)


def _ground(name: str, split: str, rng: np.random.Generator) -> Image.Image:
    """A random square of the split's part of a ground, of a random brightness."""
    photo = _photo(name)
    edges = np.concatenate([[0], np.cumsum(SHARES), [1]]) * photo.width
    left, right = edges[SPLITS.index(split)], edges[SPLITS.index(split) + 1]
    side = min(photo.height, right - left) * rng.uniform(0.7, 1)
    x, y = rng.uniform(left, right - side), rng.uniform(0, photo.height - side)
    square = photo.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=(x, y, x + side, y + side))
    if rng.random() < 0.5:
        square = square.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    bright = rng.uniform(0.8, 1.15)
    return square.point(lambda value: min(255, round(value * bright)))


@cache
def _photo(name: str) -> Image.Image:
    """A ground as a strip whose parts are a useful size: 800 pixels wide at most."""
    path = _bundled() / BUNDLED[name] if name in BUNDLED else WALLPAPERS / PHOTOGRAPHED[name]
    with Image.open(path) as opened:
        photo = opened.convert("RGB")
    photo.thumbnail((800, 800))
    return photo


@cache
def _cutout(path: Path) -> Image.Image:
    with Image.open(path) as opened:
        cutout = opened.convert("RGBA")
    cutout.thumbnail((SIDE, SIDE))
    return cutout


def _bundled() -> Path:
    import skimage

    return Path(skimage.__file__).parent / "data"
