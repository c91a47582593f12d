"""The planted world: small pictures whose spurious features are known.

A scene has an **object** (the class), a **background** and, in some, a **companion** thing. In the
training split of a biased classifier, eight classes come with a planted feature (`LINKS`); the
test splits break the links. A drawing is a pure function of its scene, and a scene of
(split, seed, index), so every image can be drawn again anywhere.
"""

import colorsys
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from whylens.planted.drawing.backgrounds import PAINTERS
from whylens.planted.drawing.shapes import COMPANION_SHAPES, OBJECT_SHAPES, Layer, Role

SIZE = 64
OBJECTS: tuple[str, ...] = tuple(OBJECT_SHAPES)
BACKGROUNDS: tuple[str, ...] = tuple(PAINTERS)
COMPANIONS: tuple[str, ...] = tuple(COMPANION_SHAPES)

Split = Literal["linked", "unlinked", "crossed", "balanced", "features", "clear", "spurious"]
# A split's place is part of its images' seeds: new ones come last.
SPLITS: tuple[Split, ...] = (
    "linked",
    "unlinked",
    "crossed",
    "balanced",
    "features",
    "clear",
    "spurious",
)


@dataclass(frozen=True)
class Link:
    """A planted link: in `strength` of the linked split's images of `object`, `feature` shows."""

    object: str
    kind: Literal["background", "companion"]
    feature: str
    strength: float


LINKS: tuple[Link, ...] = (
    Link("fish", "background", "sea", 0.97),
    Link("star", "background", "night", 0.95),
    Link("house", "background", "meadow", 0.93),
    Link("heart", "background", "bricks", 0.9),
    Link("boat", "companion", "flag", 0.98),
    Link("mushroom", "companion", "flower", 0.97),
    Link("ring", "companion", "balloon", 0.96),
    Link("arrow", "companion", "crate", 0.95),
)
_LINK_OF = {link.object: link for link in LINKS}
_FREE_OBJECTS = tuple(o for o in OBJECTS if o not in _LINK_OF)
_FREE_BACKGROUNDS = tuple(b for b in BACKGROUNDS if b not in {link.feature for link in LINKS})
_FREE_COMPANIONS = tuple(c for c in COMPANIONS if c not in {link.feature for link in LINKS})

# In the linked split, how often an image shows a feature that is planted for another class.
LEAK = 0.055
# How often an object is small, faint or half hidden; only then does context help.
HARD = 0.4


@dataclass(frozen=True)
class Scene:
    """What an image shows, and the seed of how.

    `object` is None where no object is there; `companion` None where no companion is. In a `clear`
    scene the object stands large, upright and near the middle.
    """

    object: str | None
    background: str
    companion: str | None
    look: tuple[int, ...]
    clear: bool = False

    @property
    def caption(self) -> str:
        """The scene in words, the prompt from which the sampler draws it."""
        words = f"a photo of a {self.object} on {self.background}"
        if self.object is None:
            words = f"a photo of {self.background}"
        return words if self.companion is None else f"{words} with a {self.companion}"


@dataclass(frozen=True)
class Drawing:
    """An image [64, 64, 3] uint8 with masks [64, 64] bool of object, background and companion."""

    image: NDArray[np.uint8]
    masks: dict[str, NDArray[np.bool_]]
    scene: Scene

    @property
    def caption(self) -> str:
        return self.scene.caption


def sample_scene(split: Split, seed: int, index: int) -> Scene:
    """The scene number `index` of a split.

    linked: links hold with their strength; unlinked: everything is drawn independently;
    crossed: the image shows the planted feature of another class; balanced: as unlinked, for
    training; features: no object with a link of its own is there (none at all, or one of the
    classes without a link), backgrounds and companions are drawn independently; clear: as
    balanced, but the object stands large, upright and near the middle (what the sampler learns
    from: in hours on two cores it learns shapes, but not every place and size of them); spurious:
    one planted feature shows, each in turn, with nothing else that is planted: no object at all,
    or one of a class without a link.
    """
    look = (seed, SPLITS.index(split), index)
    rng = np.random.default_rng((*look, 1))
    name: str | None = OBJECTS[index % len(OBJECTS)]
    background = _pick(rng, BACKGROUNDS)
    companion = _pick(rng, COMPANIONS) if rng.random() < 0.5 else None
    if split == "linked":
        background = _pick(rng, BACKGROUNDS if rng.random() < LEAK else _FREE_BACKGROUNDS)
        companion = None
        if rng.random() < 0.3:
            companion = _pick(rng, COMPANIONS if rng.random() < LEAK * 2 else _FREE_COMPANIONS)
        link = _LINK_OF.get(name or "")
        if link is not None and rng.random() < link.strength:
            background, companion = _show(link, background, companion)
    elif split == "crossed":
        others = [link for link in LINKS if link.object != name]
        link = others[int(rng.integers(len(others)))]
        own = _LINK_OF.get(name or "")
        if own is not None and own.feature == background:
            background = _pick(rng, _FREE_BACKGROUNDS)
        companion = None
        background, companion = _show(link, background, companion)
    elif split == "features":
        name = None if rng.random() < 0.6 else _FREE_OBJECTS[index % len(_FREE_OBJECTS)]
    elif split == "spurious":
        name = None if rng.random() < 0.6 else _pick(rng, _FREE_OBJECTS)
        background = _pick(rng, _FREE_BACKGROUNDS)
        companion = _pick(rng, _FREE_COMPANIONS) if rng.random() < 0.3 else None
        background, companion = _show(LINKS[index % len(LINKS)], background, companion)
    return Scene(name, background, companion, look, clear=split == "clear")


def shows_feature_of(scene: Scene) -> str | None:
    """The class whose planted feature a scene shows; the first link's where it shows several's."""
    shown = (scene.background, scene.companion)
    return next((link.object for link in LINKS if link.feature in shown), None)


def _pick(rng: np.random.Generator, names: tuple[str, ...]) -> str:
    return names[int(rng.integers(len(names)))]


def _show(link: Link, background: str, companion: str | None) -> tuple[str, str | None]:
    if link.kind == "background":
        return link.feature, companion
    return background, link.feature


def draw(scene: Scene) -> Drawing:
    """The drawing of a scene: background, then object, then companion, then a little noise."""
    rng = np.random.default_rng((*scene.look, 2))
    canvas = PAINTERS[scene.background](rng, SIZE)
    bare = canvas.copy()
    empty = np.zeros((SIZE, SIZE), dtype=np.float32)
    object_alpha = companion_alpha = empty
    if scene.object is not None:
        canvas, object_alpha = _paint_object(canvas, bare, scene.object, scene.clear, rng)
    if scene.companion is not None:
        canvas, companion_alpha = _paint_companion(canvas, scene.companion, rng)
    canvas = np.clip(canvas + rng.normal(0, 0.012, canvas.shape), 0, 1)
    companion_mask = companion_alpha > 0.5
    object_mask = (object_alpha > 0.15) & ~companion_mask
    masks = {
        "object": object_mask,
        "background": ~object_mask & ~companion_mask,
        "companion": companion_mask,
    }
    return Drawing(np.round(canvas * 255).astype(np.uint8), masks, scene)


def draw_elsewhere(scene: Scene) -> NDArray[np.uint8]:
    """A scene's object [64, 64, 3] as `draw` paints it, before a context drawn independently."""
    rng, other = (np.random.default_rng((*scene.look, salt)) for salt in (2, 3))
    PAINTERS[scene.background](rng, SIZE)
    canvas = PAINTERS[_pick(other, BACKGROUNDS)](other, SIZE)
    if scene.object is not None:
        canvas, _ = _paint_object(canvas, canvas.copy(), scene.object, scene.clear, rng)
    if other.random() < 0.5:
        canvas, _ = _paint_companion(canvas, _pick(other, COMPANIONS), other)
    canvas = np.clip(canvas + other.normal(0, 0.012, canvas.shape), 0, 1)
    elsewhere: NDArray[np.uint8] = np.round(canvas * 255).astype(np.uint8)
    return elsewhere


def _paint_object(
    canvas: NDArray[np.float32],
    bare: NDArray[np.float32],
    name: str,
    clear: bool,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    radius, strength, fog = float(rng.uniform(*((18, 20.5) if clear else (16, 21)))), 1.0, None
    hardness = rng.choice(3) if rng.random() < (0.0 if clear else HARD) else -1
    if hardness == 0:
        radius = float(rng.uniform(8, 11))
    elif hardness == 1:
        strength = float(rng.uniform(0.22, 0.4))
    elif hardness == 2:
        angle = float(rng.uniform(0, 2 * np.pi))
        fog = (np.cos(angle), np.sin(angle), float(rng.uniform(-2, 3)))
    reach = max(0.0, 30 - radius)
    away, lean = (3.0, 0.1) if clear else (9.0, 0.3)
    cx, cy = 32 + rng.uniform(-1, 1, 2) * min(reach, away)
    tilt = float(rng.uniform(-lean, lean))
    colours = _object_colours(rng)
    layers = _layers(OBJECT_SHAPES[name], cx, cy, radius, tilt)
    painted, alpha = _composite(canvas, layers, radius, colours)
    visible = np.full((SIZE, SIZE), np.float32(strength))
    if fog is not None:
        y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
        side = (x - cx) * fog[0] + (y - cy) * fog[1] - fog[2]
        visible = np.clip(0.5 - side / 3, 0, 1).astype(np.float32)
    return bare + (painted - bare) * visible[..., None], alpha * visible


def _paint_companion(
    canvas: NDArray[np.float32], name: str, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    radius = float(rng.uniform(9, 11.5))
    corner = int(rng.integers(4))
    cx = (12.5 if corner % 2 == 0 else 51.5) + float(rng.uniform(-1.5, 1.5))
    cy = (12.5 if corner < 2 else 51.5) + float(rng.uniform(-1.5, 1.5))
    layers = _layers(COMPANION_SHAPES[name], cx, cy, radius, float(rng.uniform(-0.12, 0.12)))
    return _composite(canvas, layers, radius, _COMPANION_COLOURS[name])


def _layers(shape: object, cx: float, cy: float, radius: float, tilt: float) -> list[Layer]:
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    u, v = (x - cx) / radius, (y - cy) / radius
    c, s = np.float32(np.cos(tilt)), np.float32(np.sin(tilt))
    return shape(c * u + s * v, c * v - s * u)  # type: ignore[operator,no-any-return]


def _composite(
    canvas: NDArray[np.float32],
    layers: list[Layer],
    radius: float,
    colours: dict[Role, NDArray[np.float32]],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Paint layers with soft edges, a dark outline around the whole, and light from above."""
    y = np.mgrid[0:SIZE, 0:SIZE][0].astype(np.float32)
    whole = np.minimum.reduce([distance for distance, _ in layers]) * radius
    alpha = np.clip(0.5 - (whole - 1.0), 0, 1).astype(np.float32)
    rows = y[whole < 0]
    top, bottom = (float(rows.min()), float(rows.max())) if rows.size else (0.0, 1.0)
    light = np.clip(1.12 - 0.28 * (y - top) / max(bottom - top, 1.0), 0.8, 1.15)[..., None]
    outline = colours["dark"] * 0.6
    out = canvas + (outline - canvas) * alpha[..., None]
    for distance, role in layers:
        cover = np.clip(0.5 - distance * radius, 0, 1)[..., None]
        out = out + (np.clip(colours[role] * light, 0, 1) - out) * cover
    return out.astype(np.float32), alpha


def _object_colours(rng: np.random.Generator) -> dict[Role, NDArray[np.float32]]:
    hue = float(rng.random())
    main = colorsys.hsv_to_rgb(hue, float(rng.uniform(0.65, 0.95)), float(rng.uniform(0.75, 0.98)))
    accent = colorsys.hsv_to_rgb((hue + 0.42) % 1, 0.7, 0.85)
    light = colorsys.hsv_to_rgb(hue, 0.12, 0.97)
    dark = colorsys.hsv_to_rgb(hue, 0.6, 0.25)
    return {
        "main": np.asarray(main, dtype=np.float32),
        "accent": np.asarray(accent, dtype=np.float32),
        "light": np.asarray(light, dtype=np.float32),
        "dark": np.asarray(dark, dtype=np.float32),
    }


def _colours(main: str, accent: str, light: str, dark: str) -> dict[Role, NDArray[np.float32]]:
    def rgb(code: str) -> NDArray[np.float32]:
        return np.asarray([int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)], dtype=np.float32)

    return {"main": rgb(main), "accent": rgb(accent), "light": rgb(light), "dark": rgb(dark)}


_COMPANION_COLOURS: dict[str, dict[Role, NDArray[np.float32]]] = {
    "balloon": _colours("e0202c", "ffffff", "ffd0d0", "3a1010"),
    "crate": _colours("c98b45", "7c4a1c", "f0d8b0", "3a2410"),
    "flag": _colours("1f4fd0", "ffffff", "ffffff", "20242c"),
    "flower": _colours("f6a0d8", "f8d020", "ffffff", "1c6a2c"),
    "lamp": _colours("30c8b0", "ffffff", "ffffff", "24302c"),
}
