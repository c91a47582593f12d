"""The tree keeps its shape: imports point one way, and its folders shadow nobody's packages."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

house = runpy.run_path(str(Path(__file__).parent / "imports.py"))
ROOT, FOLDERS, UPWARD = house["ROOT"], house["FOLDERS"], house["UPWARD"]
imports, modules, arrows = house["imports"], house["modules"], house["arrows"]
places, between_places, cycles = house["places"], house["between_places"], house["cycles"]

# From the ground up: a package may import those above it in this list, and itself.
ORDER = (
    "whylens.kernels",
    "whylens",  # errors, lazy, settings, batch
    "whylens.runs",
    "whylens.planted.drawing",
    "whylens.planted.networks",
    "whylens.images",
    "whylens.classifiers",
    "whylens.neural_pca",
    "whylens.diffusion",
    "whylens.guidance",
    "whylens.bench",
    "whylens.planted.training",
    "whylens.planted.checks",
    "whylens.cluster",
    "whylens.jobs",  # the registry, specs, stages
    "whylens.jobs.report",
    "whylens.jobs.images",
    "whylens.jobs.findings",
    "whylens.jobs.guided",
    "whylens.jobs.measuring",
    "whylens.jobs.people",
    "whylens.jobs.slices",
    "whylens.jobs.investigate",
    "whylens.jobs.cli",
    "whylens.dashboard",
)
# The science knows PyTorch only.
FOREIGN = {
    "whylens.kernels": {"ray", "streamlit", "typer", "diffusers", "transformers", "timm"},
    "whylens": {"ray", "streamlit", "typer"},
    "whylens.cluster": {"streamlit", "typer"},
    "whylens.jobs": {"streamlit"},
    "whylens.dashboard": {"ray", "typer"},
}


def package_of(module, packages=ORDER):
    """The package of ours that a module belongs to."""
    owners = [p for p in packages if module == p or module.startswith(p + ".")]
    return max(owners, key=len, default=None)


def wrong(path, module):
    """Imports of a file that its place in the tree forbids."""
    own, foreign = package_of(module), FOREIGN[package_of(module, FOREIGN)]
    for line, name in imports(path, module):
        target, top = package_of(name), name.split(".")[0]
        if target is None:
            allowed = top not in foreign and top not in FOLDERS
        else:
            allowed = ORDER.index(target) <= ORDER.index(own)
        if not allowed and (module, name) not in UPWARD:
            yield f"{path.name}:{line} of {module} imports {name}"


def test_imports_point_down():
    found = modules()
    assert {package_of(module) for module in found} == set(ORDER)
    assert [line for module, path in found.items() for line in wrong(path, module)] == []


def test_every_inner_package_has_its_height():
    where = places(modules())
    inner = {path[1] for path in where.values() if path[0] == "whylens" and len(path) > 2}
    assert {folder.replace("/", ".") for folder in inner} <= set(ORDER)


def test_no_import_goes_round():
    found = modules()
    graph = arrows(found)
    assert cycles(graph) == set()
    assert all(target in graph[module] for module, target in UPWARD), "one points down by now"
    downward = {m: {t for t in targets if (m, t) not in UPWARD} for m, targets in graph.items()}
    assert cycles(between_places(downward, places(found))) == set()


@pytest.mark.parametrize(
    ("package", "text", "bad"),
    [
        ("whylens.kernels", "from whylens.errors import WhylensError", True),
        ("whylens.runs", "def f():\n    import ray", True),
        ("whylens.runs", "from whylens import jobs", True),
        ("whylens.guidance", "from whylens.kernels import disagreement", False),
        ("whylens.cluster", "import whylens.jobs.cli", True),
        ("whylens.cluster", "from whylens.runs import Run", False),
        ("whylens.cluster", "from ..jobs import cli", True),
        ("whylens.jobs.people", "from ..report import run\nfrom whylens import runs", False),
        ("whylens.jobs.report", "from whylens.jobs.guided import generate", True),
        ("whylens.jobs", "def f():\n    from whylens.jobs.report import page", True),
        ("whylens.jobs", "import kernels", True),
        ("whylens.cluster", "m = importlib.import_module('whylens.jobs.cli')", True),
        ("whylens.images", "from whylens.planted.drawing.world import draw", False),
        ("whylens.images", "def f():\n    from whylens.planted.checks import judges", True),
        ("whylens.neural_pca", "if TYPE_CHECKING:\n    from whylens.guidance import apgd", True),
        ("whylens.classifiers", "from ..neural_pca.refit import Refit", True),
        ("whylens.planted.checks", "from whylens.guidance.apgd import apgd", False),
    ],
)  # fmt: skip
def test_a_wrong_import_is_seen(tmp_path, package, text, bad):
    path = tmp_path / "planted.py"
    path.write_text(text)
    assert bool(list(wrong(path, f"{package}.planted"))) is bad


def test_a_ring_of_imports_is_seen_however_they_are_written(tmp_path):
    files = {
        "one/__init__.py": "from whylens.lazy import lazily\nfrom whylens.one.a import A",
        "one/a.py": "def f():\n    from whylens.two import B",
        "two/__init__.py": "if TYPE_CHECKING:\n    from whylens.two.b import B",
        "two/b.py": "c = importlib.import_module('whylens.two.c')",
        "two/c.py": "from ..one import A",
        "two/d.py": "from whylens.two import b, c\nfrom whylens.two.a import nothing",
    }
    for name, text in files.items():
        (tmp_path / "whylens" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "whylens" / name).write_text(text)
    found = modules(tmp_path)
    graph = arrows(found)
    assert graph["whylens.two"] == set()
    assert graph["whylens.two.d"] == {"whylens.two", "whylens.two.b", "whylens.two.c"}
    assert cycles(graph) == {frozenset({"whylens.one.a", "whylens.two.b", "whylens.two.c"})}
    between = between_places(graph, places(found, tmp_path))
    assert cycles(between) == {frozenset({"whylens/one", "whylens/two"})}


LIBRARIES = ("diffusers", "transformers", "timm", "open_clip")


@pytest.fixture(scope="module")
def failures():
    """What goes wrong when a library is imported; in one process, since they share most of it.

    The repository's root is the first entry of sys.path there, as it is for `python script.py` in
    it; the Hugging Face package `kernels` is what diffusers and transformers look for.
    """
    look = f"""
import importlib, importlib.util, json, traceback
failures = {{}}
for library in {LIBRARIES}:
    try:
        importlib.import_module(library)
        importlib.util.find_spec("kernels")
    except Exception:
        failures[library] = traceback.format_exc()
print(json.dumps(failures))
"""
    result = subprocess.run(
        [sys.executable, "-c", look], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES)
def test_our_folders_shadow_no_package(failures, library):
    assert library not in failures, failures[library][-3000:]


@pytest.mark.parametrize("module", ["whylens", "whylens.errors", "whylens.jobs"])
def test_importing_the_package_is_light(module):
    heavy = "{'torch', 'ray', 'diffusers', 'transformers', 'timm', 'streamlit', 'faiss'}"
    look = f"import sys, {module}; print(sorted({heavy} & sys.modules.keys()))"
    result = subprocess.run(
        [sys.executable, "-c", look], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.stdout.strip() == "[]", result.stdout + result.stderr[-3000:]
