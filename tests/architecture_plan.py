"""What ARCHITECTURE.md's map shows of the code, as plain JSON; tests/draw_architecture.py draws it.

A floor is a folder of the repository, a box a package of it, an arrow says "imports". Floors and
boxes stand above what they import; an arrow that a way of other arrows tells is left out. Modules
beside a floor's packages are a strip: under the boxes what imports none of them, over them what
none of them imports.
"""

import ast
import itertools
import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

house = runpy.run_path(str(Path(__file__).parent / "imports.py"))
ROOT, FOLDERS, UPWARD = house["ROOT"], house["FOLDERS"], house["UPWARD"]

Graph = dict[str, set[str]]


def plan(root: Path = ROOT) -> dict[str, Any]:
    """Floors from the top, each with its rooms in rows and their arrows, as plain JSON."""
    known = house["modules"](root)
    where, graph = house["places"](known, root), house["arrows"](known)
    up = {(module, target) for module, targets in graph.items() for target in targets} & UPWARD
    down = {m: {t for t in targets if (m, t) not in up} for m, targets in graph.items()}
    between = house["between_places"](down, where)
    upward = house["between_places"](
        {m: {t for t in targets if (m, t) in up} for m, targets in graph.items()}, where
    )
    floors = []
    for folder in reversed(FOLDERS):
        inside = {m: path for m, path in known.items() if where[m][0] == folder}
        beside = {where[m][1] for m, path in inside.items() if path.name != "__init__.py"}
        rooms = sorted(place for place in beside if "/" in place)
        loose = sorted(beside - set(rooms)) if rooms else []
        used = set().union(*(between[room] for room in rooms))
        under = [m for m in loose if not between[m] & set(rooms)]
        over = [m for m in loose if m not in under and m not in used]
        boxes = [*rooms, *(m for m in loose if m not in under and m not in over)]
        arrows = reduced({box: between[box] & set(boxes) for box in boxes})
        floors.append(
            {
                "folder": folder,
                **about(inside),
                "over": [m.rpartition(".")[2] for m in over],
                "under": [m.rpartition(".")[2] for m in under],
                "rows": rows_of(arrows),
                "boxes": {
                    box: {**about(own), "inside": packages_in(box, own, root)}
                    for box in boxes
                    for own in [{m: p for m, p in inside.items() if where[m][1] == box}]
                },
                "arrows": pairs(arrows),
                "upward": pairs({box: upward[box] & set(boxes) for box in boxes}),
            }
        )
    return {
        "floors": floors,
        "arrows": pairs(reduced({folder: between[folder] & set(FOLDERS) for folder in FOLDERS})),
        "upward": pairs({folder: upward[folder] & set(FOLDERS) for folder in FOLDERS}),
    }


def about(inside: Mapping[str, Path]) -> dict[str, Any]:
    """What a box says of its modules: the first sentence of their package, files and lines."""
    texts = {module: path.read_text() for module, path in inside.items()}
    head = min(texts, key=len)
    return {
        "about": (ast.get_docstring(ast.parse(texts[head])) or "").partition("\n")[0],
        "files": len(texts),
        "lines": sum(len(text.splitlines()) for text in texts.values()),
    }


def packages_in(place: str, inside: Mapping[str, Path], root: Path) -> list[str]:
    """The packages right below a place."""
    folders = {path.parent for path in inside.values()}
    return sorted(folder.name for folder in folders if folder.parent == root / place)


def reduced(graph: Graph) -> Graph:
    """Without the arrows that a way of other arrows tells."""
    needs = {node: house["below"](graph, node) for node in graph}
    return {
        node: {t for t in targets if not any(t in needs[o] for o in targets)}
        for node, targets in graph.items()
    }


def pairs(graph: Graph) -> list[list[str]]:
    """The arrows in order."""
    return [[node, target] for node in sorted(graph) for target in sorted(graph[node])]


def rows_of(graph: Graph) -> list[list[str]]:
    """Boxes in rows from the top: above all that they import, and near to who imports them."""
    if rings := house["cycles"](graph):
        raise SystemExit(f"they import each other, so none is above: {sorted(map(sorted, rings))}")
    height: dict[str, int] = {}
    while len(height) < len(graph):
        ready = {n for n in graph if n not in height and graph[n] <= height.keys()}
        height |= {n: 1 + max((height[t] for t in graph[n]), default=-1) for n in ready}
    users = {node: [n for n in graph if node in graph[n]] for node in graph}
    for node in sorted(graph, key=lambda n: -height[n]):
        if len(users[node]) > len(graph[node]):
            height[node] = min(height[user] for user in users[node]) - 1
    top = max(height.values(), default=-1)
    rows = [sorted(n for n in graph if height[n] == level) for level in range(top, -1, -1)]
    return arranged(rows, graph)


def arranged(rows: list[list[str]], graph: Graph) -> list[list[str]]:
    """The same rows, their boxes in the order that makes arrows short and cross little."""
    level = {node: place for place, row in enumerate(rows) for node in row}

    def cost(rows: Sequence[Sequence[str]]) -> float:
        at = {n: place - (len(row) - 1) / 2 for row in rows for place, n in enumerate(row)}
        lines = [(level[a], at[a], level[b], at[b]) for a in graph for b in graph[a]]
        length = sum(abs(start - end) for _, start, _, end in lines)
        crossed = sum(
            (p[0], p[2]) == (q[0], q[2]) and (p[1] - q[1]) * (p[3] - q[3]) < 0
            for p, q in itertools.combinations(lines, 2)
        )
        return length + 3 * crossed

    best, before = rows, float("inf")
    while cost(best) < before:
        before = cost(best)
        for place in range(len(best)):
            options = ([*best[:place], list(row), *best[place + 1 :]]
                       for row in itertools.permutations(best[place]))  # fmt: skip
            best = min(options, key=cost)
    return best
