import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

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
def smooth_classifier():
    """A classifier without kinks.

    Rounding that crosses a ReLU's kink changes a gradient by far more than itself (one problem in
    twenty, by up to 4e-3 in an image); with a smooth activation what is left is rounding.
    """
    return smooth(load_classifier("planted:biased"))


def smooth(module):
    """The module with SiLU in place of each ReLU, changed in place."""
    for name, child in module.named_children():
        setattr(module, name, nn.SiLU() if isinstance(child, nn.ReLU) else smooth(child))
    return module


@pytest.fixture(scope="session")
def double_classifiers():
    return tuple(load_classifier(f"planted:{name}").double() for name in ("biased", "balanced"))
