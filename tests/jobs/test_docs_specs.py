"""Each spec of the docs is one, as the command at its head gives it; nothing is loaded."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from whylens.jobs.registry import find, jobs
from whylens.jobs.spec import make_spec, read_yaml

ROOT = Path(__file__).parents[2]
SPECS = sorted((ROOT / "docs" / "specs").glob("*.yaml"))
HEAD = re.compile(r"^#\s+(whylens .*)$", re.MULTILINE)


def commands(path: Path) -> list[list[str]]:
    """The commands at the head of a spec; the last one is the spec's own."""
    return [shlex.split(line)[1:] for line in HEAD.findall(path.read_text(encoding="utf-8"))]


def options(words: list[str]) -> dict[str, Any]:
    """A command's options by the names that settings have."""
    given: dict[str, Any] = {}
    for option, value in zip(words[::2], words[1::2], strict=True):
        assert option.startswith("--"), words
        if option == "--set":
            path, assigned = value.split("=")
            *folders, last = path.split(".")
            place = given
            for folder in folders:
                place = place.setdefault(folder, {})
            place[last] = assigned
        else:
            given[option.removeprefix("--").replace("-", "_")] = value
    return given


def spec_of(path: Path) -> BaseModel:
    job, *words = commands(path)[-1]
    given = options(words)
    assert given.pop("spec") == str(path.relative_to(ROOT))
    return make_spec(find(job).spec, {**read_yaml(str(path)), **given})


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_a_spec_is_what_its_command_takes(path: Path) -> None:
    spec_of(path)
    # What has to be run before it: jobs and their settings, or commands that are no jobs.
    for name, *words in commands(path)[:-1]:
        if name in jobs():
            make_spec(find(name).spec, options(words))
        else:
            assert name in ("spufix", "labels"), name


def test_every_experiment_of_both_papers_has_one() -> None:
    assert {path.stem for path in SPECS} >= {
        "uvce", "disagreements-robust", "disagreements-clip", "neurons", "neuron-counterfactuals",
        "neural-pca", "components", "spufix",
    }  # fmt: skip
    table = (ROOT / "docs" / "reproduce.md").read_text(encoding="utf-8")
    told = set(re.findall(r"--spec docs/specs/([a-z-]+)\.yaml", table))
    assert {path.stem for path in SPECS} <= told


def test_guided_specs_have_the_papers_settings() -> None:
    for path in SPECS:
        dumped = spec_of(path).model_dump()
        parts = [
            (name, key, group[key])
            for name, group in dumped.items()
            if isinstance(group, dict) and name in read_yaml(str(path))
            for key in ("guidance", "changing")
            if key in group and key in read_yaml(str(path))[name]
        ]
        for name, key, guidance in parts:
            chain, optimiser, views = guidance["chain"], guidance["optimiser"], guidance["views"]
            assert (chain["steps"], chain["guidance_scale"]) == (20, 3.0), (path, name, key)
            assert (optimiser["steps"], optimiser["learning_rate"]) == (20, 0.01)
            assert (optimiser["latents_factor"], optimiser["relative_epsilon"]) == (0.1, 0)
            assert (views["predictions"], views["cutouts"]) == (3, 16)
            assert (views["power"], views["noise"]) == (0.3, 0.005)
            assert dumped["sampler"].endswith("?set_alpha_to_one=true")
