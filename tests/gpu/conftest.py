"""Tests of a GPU: skipped where there is none. `tests/gpu/measure.sh` runs them among the rest."""

from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    """Skip these tests without a GPU, and those of two where there is one."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for item in items:
        if HERE not in item.path.parents:
            continue
        needed = 2 if item.get_closest_marker("two_gpus") else 1
        if count < needed:
            reason = f"it needs {needed} GPU{'s' * (needed > 1)}, and torch finds {count}"
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _without_tf32(monkeypatch):
    """Convolutions in float32 proper, which torch leaves to TF32: what is compared is ours."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture(scope="session")
def on():
    """The planted sampler in float32 and the biased classifier, by device."""
    from whylens.classifiers import load_classifier
    from whylens.diffusion import load_sampler

    made = {}

    def both(device):
        if device not in made:
            made[device] = (
                load_sampler("planted?dtype=float32", device),
                load_classifier("planted:biased", device),
            )
        return made[device]

    return both
