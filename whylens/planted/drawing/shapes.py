"""Signed distances of the planted world's shapes, on grids of local coordinates.

A shape is a list of layers, painted in order; each layer is a signed distance (negative inside,
in units of the shape's radius) and the role of its colour. Distances follow the usual closed
forms for circles, boxes and polygons; unions are minima.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Grid = NDArray[np.float32]
Role = Literal["main", "accent", "light", "dark"]
Layer = tuple[Grid, Role]


def circle(x: Grid, y: Grid, cx: float, cy: float, radius: float) -> Grid:
    distance: Grid = np.hypot(x - cx, y - cy) - np.float32(radius)
    return distance


def ellipse(x: Grid, y: Grid, cx: float, cy: float, rx: float, ry: float) -> Grid:
    """First-order distance to an ellipse, good near its edge."""
    u, v = (x - cx) / rx, (y - cy) / ry
    k = np.hypot(u, v)
    slope = np.hypot(u / rx, v / ry) + np.float32(1e-6)
    distance: Grid = (k * (k - 1) / slope).astype(np.float32)
    return distance


def box(x: Grid, y: Grid, cx: float, cy: float, hx: float, hy: float) -> Grid:
    dx, dy = np.abs(x - cx) - hx, np.abs(y - cy) - hy
    outside = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0))
    distance: Grid = (outside + np.minimum(np.maximum(dx, dy), 0)).astype(np.float32)
    return distance


def polygon(x: Grid, y: Grid, corners: Sequence[tuple[float, float]]) -> Grid:
    """Exact signed distance to a simple polygon."""
    squared = np.full(x.shape, np.inf, dtype=np.float32)
    sign = np.ones(x.shape, dtype=np.float32)
    for (ax, ay), (bx, by) in zip(corners, [*corners[1:], corners[0]], strict=True):
        ex, ey = bx - ax, by - ay
        wx, wy = x - ax, y - ay
        t = np.clip((wx * ex + wy * ey) / (ex * ex + ey * ey), 0, 1)
        squared = np.minimum(squared, (wx - t * ex) ** 2 + (wy - t * ey) ** 2)
        above, below, left = y >= ay, y < by, ex * wy > ey * wx
        crossed = (above & below & left) | (~above & ~below & ~left)
        sign = np.where(crossed, -sign, sign)
    return (sign * np.sqrt(squared)).astype(np.float32)


def _star_corners() -> list[tuple[float, float]]:
    angles = np.pi / 5 * np.arange(10) - np.pi / 2
    radii = np.where(np.arange(10) % 2 == 0, 1.05, 0.45)
    return [
        (float(r * np.cos(a)), float(r * np.sin(a))) for r, a in zip(radii, angles, strict=True)
    ]


def _arrow(x: Grid, y: Grid) -> list[Layer]:
    corners = [
        (-1.0, -0.26),
        (0.1, -0.26),
        (0.1, -0.75),
        (1.0, 0.0),
        (0.1, 0.75),
        (0.1, 0.26),
        (-1.0, 0.26),
    ]
    return [(polygon(x, y, corners), "main")]


def _boat(x: Grid, y: Grid) -> list[Layer]:
    hull = polygon(x, y, [(-1.0, 0.3), (1.0, 0.3), (0.6, 0.85), (-0.6, 0.85)])
    mast = box(x, y, 0.0, -0.35, 0.06, 0.65)
    sail = polygon(x, y, [(0.1, -1.0), (0.85, 0.15), (0.1, 0.15)])
    jib = polygon(x, y, [(-0.1, -0.8), (-0.1, 0.15), (-0.7, 0.15)])
    return [(mast, "dark"), (hull, "main"), (sail, "light"), (jib, "accent")]


def _cross(x: Grid, y: Grid) -> list[Layer]:
    bars = np.minimum(box(x, y, 0, 0, 0.95, 0.3), box(x, y, 0, 0, 0.3, 0.95))
    return [(bars, "main")]


def _fish(x: Grid, y: Grid) -> list[Layer]:
    body = ellipse(x, y, -0.2, 0.0, 0.8, 0.5)
    tail = polygon(x, y, [(0.4, 0.0), (1.0, -0.55), (1.0, 0.55)])
    fin = polygon(x, y, [(-0.45, -0.4), (0.25, -0.4), (0.05, -0.75)])
    eye, pupil = circle(x, y, -0.6, -0.1, 0.15), circle(x, y, -0.62, -0.1, 0.08)
    return [(tail, "accent"), (fin, "accent"), (body, "main"), (eye, "light"), (pupil, "dark")]


def _heart(x: Grid, y: Grid) -> list[Layer]:
    lobes = np.minimum(circle(x, y, -0.42, -0.32, 0.5), circle(x, y, 0.42, -0.32, 0.5))
    point = polygon(x, y, [(-0.84, -0.05), (0.0, -0.45), (0.84, -0.05), (0.0, 0.95)])
    return [(np.minimum(lobes, point), "main")]


def _house(x: Grid, y: Grid) -> list[Layer]:
    wall = box(x, y, 0.0, 0.4, 0.7, 0.5)
    roof = polygon(x, y, [(-1.0, 0.0), (0.0, -0.9), (1.0, 0.0)])
    door = box(x, y, -0.25, 0.55, 0.18, 0.35)
    window = box(x, y, 0.32, 0.32, 0.18, 0.18)
    return [(wall, "light"), (roof, "main"), (door, "dark"), (window, "accent")]


def _moon(x: Grid, y: Grid) -> list[Layer]:
    crescent = np.maximum(circle(x, y, 0, 0, 0.95), -circle(x, y, 0.5, -0.15, 0.78))
    return [(crescent, "main")]


def _mushroom(x: Grid, y: Grid) -> list[Layer]:
    stem = box(x, y, 0.0, 0.45, 0.24, 0.5)
    cap = np.maximum(ellipse(x, y, 0.0, 0.05, 0.98, 0.95), y - np.float32(0.12))
    spots = np.minimum(
        np.minimum(circle(x, y, -0.45, -0.25, 0.16), circle(x, y, 0.45, -0.22, 0.16)),
        circle(x, y, 0.02, -0.55, 0.17),
    )
    return [(stem, "light"), (cap, "main"), (spots, "light")]


def _ring(x: Grid, y: Grid) -> list[Layer]:
    return [(np.abs(np.hypot(x, y) - np.float32(0.7)) - np.float32(0.25), "main")]


def _star(x: Grid, y: Grid) -> list[Layer]:
    return [(polygon(x, y, _star_corners()), "main")]


def _balloon(x: Grid, y: Grid) -> list[Layer]:
    string = box(x, y, 0.0, 0.8, 0.07, 0.35)
    body = ellipse(x, y, 0.0, -0.25, 0.68, 0.78)
    shine = ellipse(x, y, -0.25, -0.5, 0.16, 0.22)
    return [(string, "dark"), (body, "main"), (shine, "light")]


def _crate(x: Grid, y: Grid) -> list[Layer]:
    body = box(x, y, 0, 0, 0.85, 0.85)
    frame = np.maximum(body, -box(x, y, 0, 0, 0.62, 0.62))
    brace = np.maximum(np.abs(x + y) - np.float32(0.17), box(x, y, 0, 0, 0.7, 0.7))
    return [(body, "main"), (frame, "accent"), (brace, "accent")]


def _flag(x: Grid, y: Grid) -> list[Layer]:
    pole = box(x, y, -0.7, 0.0, 0.1, 1.0)
    cloth = box(x, y, 0.12, -0.45, 0.75, 0.5)
    stripe = box(x, y, 0.12, -0.45, 0.75, 0.15)
    return [(pole, "dark"), (cloth, "main"), (stripe, "light")]


def _flower(x: Grid, y: Grid) -> list[Layer]:
    stem = box(x, y, 0.0, 0.65, 0.09, 0.4)
    angles = 2 * np.pi / 5 * np.arange(5) - np.pi / 2
    petals = np.full(x.shape, np.inf, dtype=np.float32)
    for angle in angles:
        petal = circle(x, y, 0.45 * np.cos(angle), 0.45 * np.sin(angle) - 0.2, 0.34)
        petals = np.minimum(petals, petal)
    return [(stem, "dark"), (petals, "main"), (circle(x, y, 0.0, -0.2, 0.27), "accent")]


def _lamp(x: Grid, y: Grid) -> list[Layer]:
    pole = box(x, y, 0.0, 0.4, 0.09, 0.6)
    foot = box(x, y, 0.0, 0.92, 0.4, 0.1)
    shade = polygon(x, y, [(-0.35, -0.95), (0.35, -0.95), (0.75, 0.0), (-0.75, 0.0)])
    return [(pole, "dark"), (foot, "dark"), (shade, "main")]


Shape = Callable[[Grid, Grid], list[Layer]]

OBJECT_SHAPES: dict[str, Shape] = {
    "arrow": _arrow,
    "boat": _boat,
    "cross": _cross,
    "fish": _fish,
    "heart": _heart,
    "house": _house,
    "moon": _moon,
    "mushroom": _mushroom,
    "ring": _ring,
    "star": _star,
}
COMPANION_SHAPES: dict[str, Shape] = {
    "balloon": _balloon,
    "crate": _crate,
    "flag": _flag,
    "flower": _flower,
    "lamp": _lamp,
}
