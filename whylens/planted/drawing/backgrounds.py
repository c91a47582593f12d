"""The planted world's backgrounds: eight textures with a hue of their own."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.float32]  # [H, W, 3] in [0, 1]


def _blend(a: Picture, b: Picture, amount: NDArray[np.floating]) -> Picture:
    return a + (b - a) * amount[..., None]


def _flat(rng: np.random.Generator, size: int, rgb: tuple[float, float, float]) -> Picture:
    colour = np.clip(np.asarray(rgb) + rng.normal(0, 0.03, 3), 0, 1)
    flat: Picture = np.broadcast_to(colour.astype(np.float32), (size, size, 3)).copy()
    return flat


def _axes(size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    return x, y


def _soft(distance: NDArray[np.float32]) -> NDArray[np.float32]:
    """Coverage of a pixel whose centre is `distance` px inside (positive) an edge."""
    cover: NDArray[np.float32] = np.clip(distance + 0.5, 0, 1).astype(np.float32)
    return cover


def _bricks(rng: np.random.Generator, size: int) -> Picture:
    x, y = _axes(size)
    x, y = x + rng.uniform(0, 20), y + rng.uniform(0, 10)
    row = np.floor(y / 10)
    shifted = x + 10 * (row % 2)
    dx = np.minimum(shifted % 20, 20 - shifted % 20)
    dy = np.minimum(y % 10, 10 - y % 10)
    brick, mortar = _flat(rng, size, (0.68, 0.28, 0.2)), _flat(rng, size, (0.85, 0.8, 0.74))
    return _blend(brick, mortar, _soft(1.3 - np.minimum(dx, dy)))


def _checks(rng: np.random.Generator, size: int) -> Picture:
    x, y = _axes(size)
    x, y = x + rng.uniform(0, 24), y + rng.uniform(0, 24)
    wave = np.sin(np.pi * x / 12) * np.sin(np.pi * y / 12)
    a, b = _flat(rng, size, (0.93, 0.9, 0.94)), _flat(rng, size, (0.5, 0.36, 0.62))
    return _blend(a, b, np.clip(0.5 + 4 * wave, 0, 1).astype(np.float32))


def _desert(rng: np.random.Generator, size: int) -> Picture:
    x, y = _axes(size)
    dunes = np.sin((y + 5 * np.sin(x / rng.uniform(9, 12) + rng.uniform(0, 6))) / 3.5)
    a, b = _flat(rng, size, (0.93, 0.8, 0.52)), _flat(rng, size, (0.82, 0.64, 0.36))
    return _blend(a, b, (0.5 + 0.5 * dunes).astype(np.float32))


def _meadow(rng: np.random.Generator, size: int) -> Picture:
    x, y = _axes(size)
    phase = rng.uniform(0, 6, 2)
    blades = np.sin(x / 1.6 + 2 * np.sin(y / 9 + phase[0])) * np.cos(y / 5 + phase[1])
    a, b = _flat(rng, size, (0.36, 0.66, 0.28)), _flat(rng, size, (0.2, 0.46, 0.18))
    return _blend(a, b, (0.5 + 0.5 * blades).astype(np.float32))


def _night(rng: np.random.Generator, size: int) -> Picture:
    x, y = _axes(size)
    sky = _blend(
        _flat(rng, size, (0.05, 0.06, 0.2)), _flat(rng, size, (0.14, 0.12, 0.34)), y / size
    )
    glow = np.zeros((size, size), dtype=np.float32)
    for cx, cy, r in zip(
        rng.uniform(0, size, 12), rng.uniform(0, size, 12), rng.uniform(0.7, 1.4, 12), strict=True
    ):
        glow = np.maximum(glow, np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * r * r)))
    return _blend(sky, np.ones_like(sky), glow)


def _sea(rng: np.random.Generator, size: int) -> Picture:
    x, y = _axes(size)
    waves = np.sin((y + 2.2 * np.sin(x / 5 + rng.uniform(0, 6))) / 2.2 + rng.uniform(0, 6))
    a, b = _flat(rng, size, (0.16, 0.42, 0.74)), _flat(rng, size, (0.45, 0.72, 0.9))
    return _blend(a, b, np.clip(0.35 + 0.65 * waves, 0, 1).astype(np.float32))


def _snow(rng: np.random.Generator, size: int) -> Picture:
    x, y = _axes(size)
    slope = y + 6 * np.sin(x / 14 + rng.uniform(0, 6)) > rng.uniform(30, 42)
    a, b = _flat(rng, size, (0.72, 0.8, 0.88)), _flat(rng, size, (0.96, 0.97, 0.99))
    ground = _blend(a, b, slope.astype(np.float32))
    flakes = np.zeros((size, size), dtype=np.float32)
    for cx, cy in zip(rng.uniform(0, size, 14), rng.uniform(0, size, 14), strict=True):
        flakes = np.maximum(flakes, _soft(1.7 - np.hypot(x - cx, y - cy)))
    return _blend(ground, np.ones_like(ground), flakes)


def _sunset(rng: np.random.Generator, size: int) -> Picture:
    x, y = _axes(size)
    sky = _blend(
        _flat(rng, size, (0.95, 0.55, 0.25)), _flat(rng, size, (0.78, 0.3, 0.45)), y / size
    )
    sun = _soft(11 - np.hypot(x - rng.uniform(14, 50), y - rng.uniform(10, 26)))
    return _blend(sky, _flat(rng, size, (1.0, 0.86, 0.4)), sun)


PAINTERS: dict[str, Callable[[np.random.Generator, int], Picture]] = {
    "bricks": _bricks,
    "checks": _checks,
    "desert": _desert,
    "meadow": _meadow,
    "night": _night,
    "sea": _sea,
    "snow": _snow,
    "sunset": _sunset,
}
