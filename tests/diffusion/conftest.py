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


@pytest.fixture(scope="session")
def one_of(tmp_path_factory):
    """The pipeline of a family by its name."""
    made = {}

    def made_once(family):
        if family not in made:
            folder = tiny["save_pipeline"](tmp_path_factory.mktemp(family), family)
            made[family] = Tiny(
                folder,
                load_sampler(str(folder)),
                load_sampler(str(folder), dtype=torch.float64),
                tiny["reference_pipeline"](folder),
            )
        return made[family]

    return made_once


# Two of the families differ in all that families differ in: prediction, schedule, text encoders.
QUICK = ("v_prediction", "xl")


@pytest.fixture(
    params=[
        pytest.param(family, marks=() if family in QUICK else pytest.mark.slow)
        for family in tiny["FAMILIES"]
    ]
)
def pipeline(request, one_of):
    return one_of(request.param)
