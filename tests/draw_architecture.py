"""Draws ARCHITECTURE.md's map from the code's imports.

    python tests/draw_architecture.py        writes docs/architecture.svg

What it shows is in tests/architecture_plan.py, and kept in the drawing, by which
tests/test_architecture.py knows whether the drawing is of this code.
"""

import json
import runpy
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

house = runpy.run_path(str(Path(__file__).parent / "architecture_plan.py"))
DRAWING = house["ROOT"] / "docs" / "architecture.svg"

Point = tuple[float, float]

# Pixels: floors in a column, rows of boxes in a floor.
WIDTH, MARGIN, PADDING = 1000, 20, 18
HEAD, FOOT, STRIP = 46, 16, 30
ROW_GAP, BOX_GAP, FLOOR_GAP = 40, 24, 34
# In a box: the first line of its text, the next ones, the width of a letter.
FIRST_LINE, LINE, LETTER = 39, 15, 5.9

STYLE = """
text { font-family: -apple-system, "Segoe UI", Helvetica, Arial, "DejaVu Sans", sans-serif; }
.floor-name { font-size: 19px; font-weight: 700; fill: #1f2328; }
.floor-about { font-size: 13px; fill: #424a53; }
.name { font-size: 15px; font-weight: 600; fill: #1f2328; }
.module { font-size: 12px; fill: #1f2328; }
.about { font-size: 11.5px; fill: #424a53; }
.count { font-size: 10.5px; fill: #6e7781; }
.dashboard { fill: #fbeef5; stroke: #d89ab9; } .jobs { fill: #ebf3fc; stroke: #86aee0; }
.cluster { fill: #e9f6f4; stroke: #79b9b2; } .whylens { fill: #fdf6e3; stroke: #d6b260; }
.kernels { fill: #f1eefa; stroke: #a697d6; }
.box { fill: #ffffff; } .planted { fill: #eaf6de; stroke: #78ad50; }
.strip { fill: #ffffff; fill-opacity: 0.55; stroke-dasharray: 3 3; }
.arrow { fill: none; stroke: #59636e; stroke-width: 1.5; } .spine { stroke-width: 2.5; }
.up { stroke: #cf5b1c; stroke-dasharray: 5 3; }
.head { fill: #59636e; } .up-head { fill: #cf5b1c; }
@media (prefers-color-scheme: dark) {
  .floor-name, .name, .module { fill: #f0f6fc; } .about, .floor-about { fill: #c3cad2; }
  .count { fill: #9198a1; }
  .dashboard { fill: #2a1822; } .jobs { fill: #131f33; } .cluster { fill: #112827; }
  .whylens { fill: #272112; } .kernels { fill: #1e1a30; }
  .box, .strip { fill: #0d1117; } .planted { fill: #1a2c10; }
  .arrow { stroke: #9198a1; } .head { fill: #9198a1; }
  .up { stroke: #f0883e; } .up-head { fill: #f0883e; }
}
"""


def draw(planned: Mapping[str, Any]) -> str:
    """The plan as SVG."""
    floors: dict[str, Floor] = {}
    y = float(MARGIN)
    for floor in planned["floors"]:
        floors[floor["folder"]] = Floor(floor, y)
        y = floors[floor["folder"]].bottom + FLOOR_GAP
    parts = [part for floor in floors.values() for part in floor.parts()]
    for upper, lower in planned["arrows"]:
        x = MARGIN + 50
        parts.append(arrow([(x, floors[upper].bottom), (x, floors[lower].y)], spine=True))
    for lower, upper in planned["upward"]:
        x = MARGIN + 90
        parts.append(arrow([(x, floors[lower].y), (x, floors[upper].bottom)], up=True))
    for line in (
        "An arrow says: imports. All point down; the dashed ones are the exceptions, each with its "
        "reason in tests/imports.py.",
        "An arrow that a way of other arrows tells is left out. Green is the planted world. Drawn "
        "from the code by tests/draw_architecture.py.",
    ):
        parts.append(text(MARGIN, y, line, "about"))
        y += 17
    kept = escape(json.dumps(planned, indent=1))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y:.0f}" '
            f'width="{WIDTH}" height="{y:.0f}">',
            "<title>The packages of whylens and what they import</title>",
            f'<metadata id="plan">{kept}</metadata>',
            f"<style>{STYLE}</style>",
            f"<defs>{head('head')}{head('up-head')}</defs>",
            *parts,
            "</svg>\n",
        ]
    )


class Floor:
    """A folder of the repository, drawn at a height y."""

    def __init__(self, planned: Mapping[str, Any], y: float) -> None:
        self.planned, self.y, self.name = planned, y, planned["folder"]
        rows: list[list[str]] = planned["rows"]
        across = max(3, *map(len, rows)) if rows else 0
        inner = WIDTH - 2 * (MARGIN + PADDING)
        self.wide = (inner - (across - 1) * BOX_GAP) / across if across else inner
        self.words = {box: self.written(about) for box, about in planned["boxes"].items()}
        self.corner: dict[str, Point] = {}
        self.tall: dict[str, float] = {}
        y += HEAD
        if planned["over"]:
            y += STRIP + ROW_GAP / 2
        for row in rows:
            tall = FIRST_LINE + LINE * max(len(self.words[box]) for box in row) - 4
            left = (WIDTH - len(row) * self.wide - (len(row) - 1) * BOX_GAP) / 2
            for place, box in enumerate(row):
                self.corner[box] = left + place * (self.wide + BOX_GAP), y
                self.tall[box] = tall
            y += tall + ROW_GAP
        y -= ROW_GAP / 2 if rows else 0
        self.under = y
        if planned["under"]:
            y += STRIP
        self.bottom = y + FOOT * bool(rows)

    def written(self, about: Mapping[str, Any]) -> list[tuple[str, str]]:
        """The lines in a box, and how each is set: what it is, and its inner packages."""
        letters = int((self.wide - 24) / LETTER)
        lines = textwrap.wrap(about["about"].replace("`", ""), letters)
        inner = " · ".join(f"{name}/" for name in about["inside"])
        return [*((line, "about") for line in lines), *([(inner, "module")] if inner else [])]

    def parts(self) -> list[str]:
        """What is drawn of the floor."""
        planned, full = self.planned, WIDTH - 2 * MARGIN
        title = (
            f'<text x="{MARGIN + PADDING}" y="{self.y + 29:.1f}"><tspan class="floor-name">'
            f'{self.name}/</tspan><tspan dx="12" class="floor-about">{escape(planned["about"])}'
            "</tspan></text>"
        )
        parts = [
            rectangle(MARGIN, self.y, full, self.bottom - self.y, self.name, 14),
            title,
            text(MARGIN + full - PADDING, self.y + 28, counted(planned), "count", "end"),
            *(arrow(points, up=up) for points, up in self.lines()),
            *(part for box in self.corner for part in self.box(box)),
        ]
        if planned["over"]:
            parts += self.strip(planned["over"], "above them all", self.y + HEAD)
        if planned["under"]:
            parts += self.strip(planned["under"], "beneath them all", self.under)
        return parts

    def strip(self, names: Sequence[str], what: str, y: float) -> list[str]:
        """Modules beside the packages of a floor."""
        x, wide = MARGIN + PADDING, WIDTH - 2 * (MARGIN + PADDING)
        return [
            rectangle(x, y, wide, STRIP, f"{self.name} strip", 8),
            text(x + 12, y + 20, " · ".join(f"{name}.py" for name in names), "module"),
            text(x + wide - 12, y + 19.5, what, "count", "end"),
        ]

    def box(self, box: str) -> list[str]:
        """A package, or a module that stands among them."""
        x, y = self.corner[box]
        name = box.partition("/")[2] or box.rpartition(".")[2] + ".py"
        kind = "planted" if name.startswith("planted/") else f"{self.name} box"
        lines = enumerate(self.words[box])
        return [
            rectangle(x, y, self.wide, self.tall[box], kind, 9),
            text(x + 12, y + 21, name, "name"),
            text(x + self.wide - 12, y + 20.5, counted(self.planned["boxes"][box]), "count", "end"),
            *(text(x + 12, y + FIRST_LINE + LINE * n, *line) for n, line in lines),
        ]

    def lines(self) -> list[tuple[list[Point], bool]]:
        """The arrows from box to box, around those between them; and whether they point up."""
        drawn = [(a, b, False) for a, b in self.planned["arrows"]]
        drawn += [(b, a, True) for a, b in self.planned["upward"]]
        lines = []
        for upper, lower, up in drawn:
            start = self.port(upper, lower, up, [(b, u) for a, b, u in drawn if a == upper])
            end = self.port(lower, upper, up, [(a, u) for a, b, u in drawn if b == lower])
            points = self.around((start, self.corner[upper][1] + self.tall[upper]),
                                 (end, self.corner[lower][1]))  # fmt: skip
            lines.append((points[::-1] if up else points, up))
        return lines

    def port(self, box: str, other: str, up: bool, all_: Sequence[tuple[str, bool]]) -> float:
        """Where on a side of a box one of its arrows ends: in the order of the other ends."""
        order = sorted(all_, key=lambda end: (self.corner[end[0]], end[1]))
        return self.corner[box][0] + self.wide * (order.index((other, up)) + 1) / (len(order) + 1)

    def around(self, start: Point, end: Point) -> list[Point]:
        """The way from a point down to another, between the boxes of the rows on the way."""
        points = [start]
        for row in self.planned["rows"]:
            top = self.corner[row[0]][1]
            if start[1] < top < end[1]:
                edges = [self.corner[box][0] for box in row]
                gaps = [edges[0], *(edge + self.wide + BOX_GAP for edge in edges)]
                part = (top - start[1]) / (end[1] - start[1])
                aim = start[0] + part * (end[0] - start[0])
                x = min((gap - BOX_GAP / 2 for gap in gaps), key=lambda gap: abs(gap - aim))
                points += [(x, top), (x, top + self.tall[row[0]])]
        return [*points, end]


def counted(about: Mapping[str, Any]) -> str:
    """How much it is."""
    files = f"{about['files']} file{'s' * (about['files'] != 1)}"
    return f"{files}, {about['lines']:,} lines"


def arrow(points: Sequence[Point], *, up: bool = False, spine: bool = False) -> str:
    """A line through points that leaves and meets them upright."""
    (x, y), path = points[0], f"M{points[0][0]:.1f},{points[0][1]:.1f}"
    for to_x, to_y in points[1:]:
        bend = (to_y - y) / 2
        path += f" C{x:.1f},{y + bend:.1f} {to_x:.1f},{to_y - bend:.1f} {to_x:.1f},{to_y:.1f}"
        x, y = to_x, to_y
    kind = "arrow" + " up" * up + " spine" * spine
    return f'<path class="{kind}" d="{path}" marker-end="url(#{"up-" * up}head)"/>'


def head(kind: str) -> str:
    """An arrow's head."""
    return (
        f'<marker id="{kind}" markerWidth="9" markerHeight="8" refX="9" refY="4" orient="auto" '
        f'markerUnits="userSpaceOnUse"><path class="{kind}" d="M0,0 L9,4 L0,8 z"/></marker>'
    )


def rectangle(x: float, y: float, width: float, height: float, kind: str, corner: int) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{corner}" '
        f'class="{kind}"/>'
    )


def text(x: float, y: float, words: str, kind: str, anchor: str = "start") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} class="{kind}">{escape(words)}</text>'


if __name__ == "__main__":
    DRAWING.write_text(draw(house["plan"]()))
