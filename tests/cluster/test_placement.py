"""Where workers run is checked before anything starts."""

from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from whylens.cluster.node_types import NodeType
from whylens.cluster.placement import Placement
from whylens.cluster.room import room, settled, sizes
from whylens.cluster.workers import arithmetic, environment
from whylens.errors import UsageError
from whylens.jobs.guided.generate import GenerateSpec
from whylens.jobs.guided.models import Models


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
        ({"num_gpus": 1.5}, "a fraction of one GPU, or whole ones"),
        ({"classifier_gpus": 1.5}, "a fraction of one GPU, or whole ones"),
        ({"accelerator_type": "H100", "num_gpus": 0}, "goes with GPUs"),
        ({"resources": {"GPU": 1}}, "given by the setting num_gpus"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        Placement(**settings)


@pytest.mark.parametrize(
    ("nodes", "settings", "workers"),
    [
        ([(9, 1)], {"num_gpus": 0.4}, 2),
        ([(9, 3), (9, 1)], {"num_gpus": 0.4}, 8),  # none gets parts of two GPUs
        ([(9, 2)], {"num_gpus": 0.25, "num_cpus": 2}, 4),
        ([(99, 3)], {"num_gpus": 0.3}, 9),
        ([(9, 3)], {"num_gpus": 2}, 1),
        ([(9, 1)], {"num_gpus": 1, "accelerator_type": "H100"}, 0),
        ([(9, 0)], {"num_gpus": 0, "memory": 1}, 0),
        ([(9, 0)], {"num_gpus": 0, "resources": {"fast_disk": 1}}, 0),
    ],
)
def test_room_is_counted_as_ray_counts_it(nodes, settings, workers):
    assert room(cluster(*nodes), Placement(**settings)) == workers


@pytest.mark.parametrize(
    ("asked", "workers"),
    [(0.9, 1), (0.5, 2), (0.4, 2), (0.3, 3), (0.3333, 3), (0.17, 5), (0.1, 10)],
)
def test_what_workers_leave_of_gpus_is_too_little_for_another(asked, workers):
    """Ray looks for a node by what is free of all its GPUs together, and sends a worker there."""
    books = Placement(num_gpus=asked).gpus
    assert asked <= books + 1e-4
    assert int(1 / books + 1e-9) == int(1 / asked + 1e-9) == workers
    left_of_all = 8 * (1 - workers * books)
    assert left_of_all < books


def test_a_worker_books_what_it_is_given():
    placement = Placement(
        num_gpus=0.5, num_cpus=3, memory=2, accelerator_type="A100", resources={"disk": 1},
        strategy="spread",
    )  # fmt: skip
    assert placement.options == {
        "num_cpus": 3, "num_gpus": 0.5, "memory": 2**31, "accelerator_type": "A100",
        "resources": {"disk": 1.0}, "scheduling_strategy": "SPREAD",
    }  # fmt: skip
    assert placement.without_gpus.booked == {"CPU": 3, "memory": 2**31, "disk": 1.0}


def test_classifiers_are_placed_by_name():
    assert Placement(classifiers="remote").remote(["a", "b"]) == ["a", "b"]
    assert Placement(classifiers={"b": "remote", "a": "colocated"}).remote(["a", "b"]) == ["b"]
    with pytest.raises(UsageError, match="'c', which takes no part; there are: a, b"):
        Placement(classifiers={"c": "remote"}).remote(["a", "b"])
    assert Placement(num_gpus=0.5).of_classifiers.gpus == 1
    assert Placement(num_gpus=0).of_classifiers.gpus == 0
    assert Placement(num_gpus=1, classifier_gpus=0.25).of_classifiers.gpus == 0.25


def test_a_cluster_that_may_grow_is_waited_for(monkeypatch):
    types = [NodeType("gpu", {"CPU": 8.0, "GPU": 1.0}, 3)]
    monkeypatch.setattr("whylens.cluster.room.node_types", lambda: types)
    monkeypatch.setattr("whylens.cluster.room.on_cluster", lambda: True)
    empty = cluster((4, 0))
    placement = settled(empty, Placement(workers=(2, 5)))
    assert placement.num_gpus == 1
    assert sizes(empty, placement, 9) == (0, 5)
    with pytest.raises(UsageError, match=r"room for 0 .*, and with all .* for 3, but 4 are asked"):
        sizes(empty, Placement(workers=(4, 4), num_gpus=1), 9)
    with pytest.raises(UsageError, match=r"node types: gpu \(8 CPU, 1 GPU; at most 3\)"):
        sizes(empty, Placement(workers=(1, 1), num_gpus=2), 1)


def test_where_nobody_is_told_what_kuberay_may_start_it_is_waited_for(monkeypatch):
    monkeypatch.setattr("whylens.cluster.room.SECONDS_TO_WAIT", 0.0)
    monkeypatch.setattr("whylens.cluster.room.node_types", lambda: [])
    monkeypatch.setattr("whylens.cluster.room.on_cluster", lambda: True)
    asked = Placement(workers=(2, 2), num_gpus=1)
    started = "ulimit -n 65536; ray start --head --num-cpus=0 "
    monkeypatch.setenv("KUBERAY_GEN_RAY_START_CMD", started)
    with pytest.raises(UsageError, match=r"room for 0 workers of .*, but 2 are asked for"):
        sizes(cluster((4, 0)), asked, 9)
    monkeypatch.setenv("KUBERAY_GEN_RAY_START_CMD", started + "--no-monitor ")
    assert sizes(cluster((4, 0)), asked, 9) == (0, 2)


def test_a_stage_may_have_a_placement_which_is_no_part_of_what_it_does(monkeypatch):
    monkeypatch.setattr("whylens.cluster.room.start", lambda: cluster((4, 2.0)))
    own = GenerateSpec(placement={"workers": [1, 2], "num_gpus": 0.5})
    assert own.model_dump_json() == GenerateSpec().model_dump_json()
    runs = Models("planted", "a", placement=Placement(num_gpus=0))
    assert runs.of_stage(own.placement).placement.num_gpus == 0.5
    assert runs.of_stage(None).placement.num_gpus == 0
