import runpy
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from whylens.diffusion import Sampler, load_sampler

tiny = runpy.run_path(str(Path(__file__).parent / "tiny_pipeline.py"))


class Tiny(NamedTuple):
    """One pipeline: its folder, whylens' sampler in two precisions, and diffusers' own pipeline."""

    folder: Path
    sampler: Sampler
    double: Sampler
    reference: Any


@pytest.fixture(scope="session", params=["v_prediction", "epsilon"])
def pipeline(request, tmp_path_factory):
    folder = tiny["save_pipeline"](tmp_path_factory.mktemp(request.param), request.param)
    return Tiny(
        folder,
        load_sampler(str(folder)),
        load_sampler(str(folder), dtype=torch.float64),
        tiny["reference_pipeline"](folder),
    )
