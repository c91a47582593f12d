"""The tree keeps its shape: imports point one way, and its folders shadow nobody's packages."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "whylens": "whylens",
    "kernels": "whylens.kernels",
    "cluster": "whylens.cluster",
    "jobs": "whylens.jobs",
    "dashboard": "whylens.dashboard",
}
# dashboard, jobs -> cluster -> whylens -> kernels. The dashboard reads runs through jobs.
MAY_IMPORT = {
    "whylens.kernels": set(),
    "whylens": {"whylens.kernels"},
    "whylens.cluster": {"whylens", "whylens.kernels"},
    "whylens.jobs": {"whylens.cluster", "whylens", "whylens.kernels"},
    "whylens.dashboard": {"whylens.jobs", "whylens.cluster", "whylens", "whylens.kernels"},
}
# The one way up: the command `whylens dashboard` starts Streamlit through it.
EXCEPTIONS = {("whylens.jobs.cli.commands", "whylens.dashboard.launch")}
# The science knows PyTorch only.
FOREIGN = {
    "whylens.kernels": {"ray", "streamlit", "typer", "diffusers", "transformers", "timm"},
    "whylens": {"ray", "streamlit", "typer"},
    "whylens.cluster": {"streamlit", "typer"},
    "whylens.jobs": {"streamlit"},
    "whylens.dashboard": {"ray", "typer"},
}


def package_of(module):
    """The package of ours that a module belongs to."""
    owners = [p for p in MAY_IMPORT if module == p or module.startswith(p + ".")]
    return max(owners, key=len, default=None)


def imports(path, module):
    """(line, absolute name) of every import of a file: those inside functions, and by name, too."""
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


def modules():
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            inside = path.relative_to(ROOT / folder).with_suffix("").parts
            yield path, ".".join([package, *(part for part in inside if part != "__init__")])


def test_every_folder_of_modules_is_a_package():
    # setup.py finds packages by it, so that a module elsewhere would not be installed.
    folders = {path.parent for path, _ in modules()}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def wrong(path, module):
    """Imports of a file that its place in the tree forbids."""
    own = package_of(module)
    for line, name in imports(path, module):
        target, top = package_of(name), name.split(".")[0]
        if target is None:
            allowed = top not in FOREIGN[own] and top not in FOLDERS
        else:
            allowed = target == own or target in MAY_IMPORT[own]
        if not allowed and (module, name) not in EXCEPTIONS:
            yield f"{path.relative_to(ROOT)}:{line} imports {name}"


def test_imports_point_one_way():
    found = list(modules())
    assert len({package_of(module) for _, module in found}) == len(FOLDERS)
    assert [line for path, module in found for line in wrong(path, module)] == []


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
        ("whylens.jobs", "from .report import run\nfrom whylens import runs", False),
        ("whylens.jobs", "import kernels", True),
        ("whylens.cluster", "m = importlib.import_module('whylens.jobs.cli')", True),
    ],
)  # fmt: skip
def test_a_wrong_import_is_seen(tmp_path, monkeypatch, package, text, bad):
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    path = tmp_path / "planted.py"
    path.write_text(text)
    assert bool(list(wrong(path, f"{package}.planted"))) is bad


@pytest.mark.parametrize("library", ["diffusers", "transformers", "timm", "open_clip"])
def test_our_folders_shadow_no_package(library):
    # The repository's root is the first entry of sys.path here, as it is for `python script.py`
    # in it; the Hugging Face package `kernels` is what diffusers and transformers look for.
    look = (
        f"import {library}, importlib.util as u; s = u.find_spec('kernels'); print(s and s.origin)"
    )
    result = subprocess.run(
        [sys.executable, "-c", look], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.mark.parametrize("module", ["whylens", "whylens.errors", "whylens.jobs"])
def test_importing_the_package_is_light(module):
    heavy = "{'torch', 'ray', 'diffusers', 'transformers', 'timm', 'streamlit', 'faiss'}"
    look = f"import sys, {module}; print(sorted({heavy} & sys.modules.keys()))"
    result = subprocess.run(
        [sys.executable, "-c", look], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.stdout.strip() == "[]", result.stdout + result.stderr[-3000:]
