"""Workers and their models serve one stage after another; cores are left for preparing."""

from types import SimpleNamespace

import pytest

from whylens.cluster import workers
from whylens.cluster.kept import kept
from whylens.cluster.placement import Placement
from whylens.cluster.stream import cores_booked
from whylens.cluster.workers import Crew, Host


@pytest.fixture
def pretended(monkeypatch):
    """Ray: says which hosts are killed; those that are spawned have numbers."""
    killed, spawned = [], []
    monkeypatch.setattr(workers, "spawn", lambda ray, placement: spawned.append(1) or len(spawned))
    return SimpleNamespace(kill=killed.append, killed=killed)


GPU, CPU = Placement(num_gpus=1), Placement(num_gpus=0)


def test_workers_with_gpus_stay_up_through_a_stage_without(pretended):
    crew = Crew()
    embedding = crew.hire(pretended, 2, GPU)
    assert [booked for _, booked in embedding] == [GPU, GPU]
    crew.keep(embedding)
    counting = crew.hire(pretended, 4, CPU)
    assert [host for host, _ in counting] == [1, 2, 3, 4]
    assert pretended.killed == []
    crew.keep(counting)
    # Those without GPUs make room for what needs some.
    generating = crew.hire(pretended, 2, GPU)
    assert [host for host, _ in generating] == [1, 2]
    assert pretended.killed == [3, 4]


def test_one_worker_is_enough_for_a_short_stage_and_the_others_with_gpus_wait(pretended):
    crew = Crew()
    crew.keep(crew.hire(pretended, 2, GPU))
    crew.keep(crew.hire(pretended, 1, CPU))
    assert sorted(host for host, _ in crew.hire(pretended, 2, GPU)) == [1, 2]
    assert pretended.killed == []


def test_workers_of_another_size_make_room(pretended):
    crew = Crew()
    crew.keep(crew.hire(pretended, 2, GPU))
    assert [host for host, _ in crew.hire(pretended, 1, Placement(num_gpus=0, num_cpus=2))] == [3]
    assert pretended.killed == [1, 2]


def test_models_stay_loaded_until_a_stage_does_without_them():
    loaded, host = [], Host()

    def load(name, device):
        loaded.append((name, device))
        return object()

    def stage(*names):
        assert host.load(lambda: [kept(load, name, "cpu") for name in names], (), {}) is None
        return host._worker

    sampler, classifier = stage("sampler", "classifier")
    assert stage("classifier", "sampler") == [classifier, sampler]
    assert stage("classifier") == [classifier]
    assert stage("sampler", "classifier") != [sampler, classifier]
    assert [name for name, _ in loaded] == ["sampler", "classifier", "sampler"]
    assert kept(load, "sampler", "cpu") is not kept(load, "sampler", "cpu")  # no host's


@pytest.mark.parametrize(
    ("settings", "spare", "worker", "preparing"),
    [
        ({"num_gpus": 1, "num_cpus": 4}, 0, 3, 1),
        ({"num_gpus": 1, "num_cpus": 4}, 4, 4, 1),
        ({"num_gpus": 1, "num_cpus": 1}, 0.5, 0.5, 0.5),
        ({"num_gpus": 0, "num_cpus": 2}, 0, 1.5, 0.25),
    ],
)
def test_some_cores_are_left_for_preparing(settings, spare, worker, preparing):
    assert cores_booked(Placement(**settings), spare) == (worker, preparing)
