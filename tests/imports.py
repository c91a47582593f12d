"""What imports what in this repository, for tests/test_layout.py and tests/architecture_plan.py.

Every import counts: inside of functions, for type checkers only, and by a name that is given to
`import_module`. What a package's `__init__` re-exports counts as imported from the module that has
it, so an `__init__` that lists what its own modules offer stands in nobody's way.
"""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
# The folders of the repository and their packages, the lowest first.
FOLDERS = {
    "kernels": "whylens.kernels",
    "whylens": "whylens",
    "cluster": "whylens.cluster",
    "jobs": "whylens.jobs",
    "dashboard": "whylens.dashboard",
}
# The imports that point up, all of them.
UPWARD = {
    # The command `whylens dashboard` starts Streamlit.
    ("whylens.jobs.cli.commands", "whylens.dashboard.launch"),
}


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Every module of ours by its name; a package stands for its `__init__`."""
    found = {}
    for folder, package in FOLDERS.items():
        for path in sorted((root / folder).rglob("*.py")):
            inside = path.relative_to(root / folder).with_suffix("").parts
            found[".".join([package, *(part for part in inside if part != "__init__")])] = path
    return found


def imports(path: Path, module: str) -> Iterator[tuple[int, str]]:
    """(line, absolute name) of every import of a file."""
    parts = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = parts[: len(parts) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names = [a.value for a in node.args[:1] if isinstance(a, ast.Constant)]
            yield from ((node.lineno, name) for name in names)


def arrows(known: Mapping[str, Path]) -> dict[str, set[str]]:
    """The modules of ours that each module imports."""
    offered = {
        f"{package}.{name.rpartition('.')[2]}": name
        for package, path in known.items()
        if path.name == "__init__.py"
        for _, name in imports(path, package)
    }

    def home(name: str) -> str:
        """The module that has what is imported by a name; "" for what isn't ours."""
        while name and name not in known:
            name = offered.get(name) or name.rpartition(".")[0]
        return name

    found = {}
    for module, path in known.items():
        found[module] = {home(name) for _, name in imports(path, module)} - {"", module}
        if path.name == "__init__.py":
            found[module] -= {name for name in known if name.startswith(f"{module}.")}
    return found


def below(graph: Mapping[str, set[str]], start: str) -> set[str]:
    """All that `start` needs, however far down."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def cycles(graph: Mapping[str, set[str]]) -> set[frozenset[str]]:
    """Groups of nodes that need each other, however far around."""
    needs = {node: below(graph, node) for node in graph}
    return {
        frozenset(other for other in needs[node] if node in needs[other])
        for node in graph
        if node in needs[node]
    }


def places(known: Mapping[str, Path], root: Path = ROOT) -> dict[str, tuple[str, ...]]:
    """Where each module stands: its folders from the outermost in, then itself.

    ("whylens", "whylens/planted/drawing", "whylens.planted.drawing.world"): a folder that holds
    nothing but folders, as whylens/planted does, is no place.
    """
    relative = {module: path.relative_to(root) for module, path in known.items()}
    filled = {path.parent for path in relative.values() if path.name != "__init__.py"}
    return {
        module: (*(str(folder) for folder in reversed(path.parents) if folder in filled), module)
        for module, path in relative.items()
    }


def between_places(
    graph: Mapping[str, set[str]], where: Mapping[str, tuple[str, ...]]
) -> dict[str, set[str]]:
    """The arrows between neighbours: folders, and modules beside them, in one folder.

    An import leads from the first place that only the importing module is in to the first that only
    the imported one is in.
    """
    found: dict[str, set[str]] = {place: set() for places in where.values() for place in places}
    for module, targets in graph.items():
        for target in targets:
            pairs = zip(where[module], where[target], strict=False)
            start, end = next((a, b) for a, b in pairs if a != b)
            found[start].add(end)
    return found
