import pytest
import torch

from whylens.kernels.backend import ENVIRONMENT_VARIABLE, check_floating, use_triton


def test_a_cpu_takes_the_torch_path(monkeypatch):
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    assert not use_triton(torch.zeros(1), None)


def test_the_environment_overrides_but_never_for_float64(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "triton")
    assert use_triton(torch.zeros(1), None)
    assert not use_triton(torch.zeros(1, dtype=torch.float64))
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "torch")
    assert not use_triton(torch.zeros(1))


def test_an_unknown_path_is_named(monkeypatch):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "cuda")
    with pytest.raises(ValueError, match="'cuda'"):
        use_triton(torch.zeros(1))


def test_mixed_devices_are_named():
    with pytest.raises(ValueError, match="b on meta"):
        check_floating(a=torch.zeros(1), b=torch.zeros(1, device="meta"))
