import runpy
from pathlib import Path

import pytest
import torch

from whylens.classifiers import load_classifier
from whylens.diffusion import load_sampler

tiny = runpy.run_path(str(Path(__file__).parents[1] / "diffusion" / "tiny_pipeline.py"))


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tiny["save_pipeline"](tmp_path_factory.mktemp("tiny"), "v_prediction")


@pytest.fixture(scope="session")
def sampler(folder):
    return load_sampler(str(folder))


@pytest.fixture(scope="session")
def double_sampler(folder):
    return load_sampler(str(folder), dtype=torch.float64)


@pytest.fixture(scope="session")
def classifier():
    return load_classifier("planted:biased")


@pytest.fixture(scope="session")
def double_classifiers():
    return tuple(load_classifier(f"planted:{name}").double() for name in ("biased", "balanced"))
