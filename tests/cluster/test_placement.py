"""Where workers run is checked before anything starts."""

from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from whylens.cluster.placement import Placement
from whylens.cluster.room import room, settled
from whylens.cluster.workers import arithmetic, environment


def test_the_default_runs_anywhere():
    placement = Placement()
    assert placement.device == "cpu"
    assert placement.workers == (1, 8)


@pytest.mark.parametrize("gpus", [0.25, 1, 2])
def test_workers_with_gpus_run_on_them(gpus):
    assert Placement(num_gpus=gpus).device == "cuda"


def cluster(*nodes):
    """What Ray says of nodes: (CPUs, GPUs), of which the last one is gone where it is negative."""
    return SimpleNamespace(
        nodes=lambda: [
            {"Alive": cpus > 0, "Resources": {"CPU": float(abs(cpus)), **({"GPU": g} if g else {})}}
            for cpus, g in nodes
        ]
    )


@pytest.mark.parametrize(
    ("nodes", "gpus", "workers"),
    [
        ([(4, 0)], 0, 4),
        ([(4, 0), (8, 2.0)], 1, 2),
        ([(4, 0), (-8, 2.0)], 0, 4),  # that node is lost
        ([(1, 4.0), (2, 1.0)], 1, 2),
    ],
)
def test_auto_takes_a_gpu_a_worker_where_the_cluster_has_any(nodes, gpus, workers):
    ray = cluster(*nodes)
    placement = settled(ray, Placement())
    assert placement.num_gpus == gpus
    assert placement.device == ("cuda" if gpus else "cpu")
    assert room(ray, placement) == workers


def test_what_is_said_stays():
    ray = cluster((8, 2.0))
    assert settled(ray, Placement(num_gpus=0)).device == "cpu"
    assert settled(ray, Placement(num_gpus=0.25)).num_gpus == 0.25


def test_a_gpu_worker_multiplies_in_tf32(monkeypatch):
    name = "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"
    monkeypatch.delenv(name, raising=False)
    assert environment(Placement(num_gpus=1))["env_vars"][name] == "1"
    assert "products in TF32" in arithmetic()
    assert name not in environment(Placement(num_gpus=0))["env_vars"]
    monkeypatch.setenv(name, "0")
    assert environment(Placement(num_gpus=1))["env_vars"][name] == "0"
    assert "products in float32" in arithmetic()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": [0, 2]}, "1 <= fewest <= most"),
        ({"workers": [3, 2]}, r"not \(3, 2\)"),
        ({"workers": [1]}, "workers"),
        ({"num_gpus": -1}, "num_gpus"),
        ({"num_cpus": 0}, "num_cpus"),
        ({"classifiers": "elsewhere"}, "colocated"),
        ({"worker": [1, 2]}, "Extra inputs"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        Placement(**settings)
