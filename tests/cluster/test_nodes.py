"""Several machines: workers are pinned to their GPUs, and room is counted machine by machine."""

import os
import time
from collections import Counter
from dataclasses import dataclass

import pyarrow as pa
import pytest
import torch

from whylens.classifiers import load_classifier
from whylens.cluster.classifiers import connected, serve
from whylens.cluster.placement import Placement
from whylens.cluster.pool import WorkerPool
from whylens.cluster.room import of_stage, sizes
from whylens.cluster.session import session, start
from whylens.cluster.stream import Stream
from whylens.errors import UsageError
from whylens.guidance.objectives import TargetClass

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster():
    """A head that does no work, and two nodes of three cores that declare two GPUs and one."""
    import ray
    from ray.cluster_utils import Cluster

    assert not ray.is_initialized()
    small = {"object_store_memory": 80 * 1024 * 1024}
    head = {"num_cpus": 0, "include_dashboard": False, **small}
    made = Cluster(initialize_head=True, head_node_args=head)
    for gpus in (2, 1):
        made.add_node(num_cpus=3, num_gpus=gpus, **small)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", made.address)
        try:
            yield made
        finally:
            ray.shutdown()
            made.shutdown()


def wait_for_all(folder, workers):
    """Say that this worker is there, and wait for the others: a busy machine starts them slowly."""
    (folder / str(os.getpid())).touch()
    until = time.monotonic() + 200
    while (there := len(list(folder.iterdir()))) < workers:
        # One that went on alone would do two units, and be counted as two workers.
        assert time.monotonic() < until, f"{there} of {workers} workers came"
        time.sleep(0.05)


class Place:
    """Tells the node, the process and the GPUs that it sees; waits for the other workers."""

    def __init__(self, folder, workers):
        self.folder, self.workers = folder, workers

    def __call__(self, unit):
        import ray

        wait_for_all(self.folder, self.workers)
        node = ray.get_runtime_context().get_node_id()
        return node, os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES")


class SlowPlace(Place):
    """Takes a moment for each unit, so that all workers have done some before the last is done."""

    def __call__(self, unit):
        time.sleep(0.1)
        return super().__call__(unit)


def places(folder, units, placement, workers):
    with session():
        pool = WorkerPool(Place, (folder, workers), placement)
        return {result for _, result in pool.map(range(units))}


def test_each_worker_sees_gpus_of_its_own(cluster, tmp_path):
    found = places(tmp_path, 3, Placement(workers=(3, 3), num_gpus=1, num_cpus=0.5), 3)
    assert len({pid for _, pid, _ in found}) == 3
    assert len({node for node, _, _ in found}) == 2
    assert sorted(gpus for _, _, gpus in found) == ["0", "0", "1"]
    assert len({(node, gpus) for node, _, gpus in found}) == 3


def test_room_is_counted_on_each_machine(cluster, tmp_path):
    # Six cores in all, but a worker of two fits once on each of the two nodes only.
    wide = Placement(workers=(3, 3), num_cpus=2)
    with pytest.raises(UsageError, match="room for 2 workers of 2 CPUs"):
        places(tmp_path, 3, wide, 1)
    # More than fit may be wished for: those that fit do all the work.
    found = places(tmp_path, 6, Placement(workers=(1, 6), num_cpus=2), 2)
    assert len({pid for _, pid, _ in found}) == 2


def test_a_machine_that_joins_is_used(cluster, tmp_path):
    placement = Placement(workers=(3, 4), num_gpus=1, num_cpus=0.5)
    with session():
        results = WorkerPool(Place, (tmp_path, 4), placement).map(range(4))
        # Three workers wait for the fourth, which has no room until another node is there.
        node = cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=80 * 1024 * 1024)
        try:
            found = {result for _, result in results}
        finally:
            cluster.remove_node(node)
    assert len({pid for _, pid, _ in found}) == 4
    assert len({node for node, _, _ in found}) == 3


def test_a_machine_that_leaves_takes_no_unit_along(cluster, tmp_path):
    placement = Placement(workers=(3, 4), num_gpus=1, num_cpus=0.5)
    node = cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=80 * 1024 * 1024)
    found, leaving = {}, node.node_id
    with session():
        # Results are taken one by one, and units given out as they are.
        for unit, (on, _, _) in WorkerPool(SlowPlace, (tmp_path, 4), placement).map(range(24)):
            if on == leaving and leaving not in found.values():
                cluster.remove_node(node)
            found[unit] = on
    assert sorted(found) == list(range(24))
    nodes = list(found.values())
    # What it had begun is done again elsewhere: it can have told of one unit more, at most.
    assert 1 <= nodes.count(leaving) <= 2
    assert nodes[-1] != leaving
    assert len(set(nodes)) == 3


class Books:
    """Tells what its worker books, its node, and the GPU that it sees; waits for the others."""

    def __init__(self, folder, workers):
        self.folder, self.workers = folder, workers

    def __call__(self, unit):
        import ray

        wait_for_all(self.folder, self.workers)
        context = ray.get_runtime_context()
        gpu = context.get_node_id(), os.environ.get("CUDA_VISIBLE_DEVICES")
        return context.get_assigned_resources(), gpu


def test_a_stage_has_workers_of_its_own_placement_two_of_which_share_a_gpu(cluster, tmp_path):
    run = Placement(workers=(1, 1), num_gpus=1, num_cpus=2)
    stages = {"alone": None, "shared": Placement(workers=(6, 6), num_gpus=0.4, num_cpus=0.25)}
    found = {}
    with session():
        for stage, own in stages.items():
            placement = of_stage(own, run)
            (tmp_path / stage).mkdir()
            workers = placement.workers[0]
            pool = WorkerPool(Books, (tmp_path / stage, workers), placement)
            found[stage] = [result for _, result in pool.map(range(workers))]
        with pytest.raises(UsageError, match=r"room for 6 workers of 0.25 CPUs and 0.5 GPUs"):
            sizes(start(), Placement(workers=(7, 7), num_gpus=0.4, num_cpus=0.25), 7)
    ((books, _),) = found["alone"]
    assert books == {"CPU": 2, "GPU": 1}
    # No worker waits for the 0.2 that is left of each of two GPUs: two share one evenly.
    assert [books for books, _ in found["shared"]] == [{"CPU": 0.25, "GPU": 0.5}] * 6
    # Three GPUs on two nodes: each has two workers.
    shared = Counter(gpu for _, gpu in found["shared"])
    assert sorted(shared.values()) == [2, 2, 2], shared
    assert len({node for node, _ in shared}) == 2


class Asking:
    """Asks a classifier that is an actor for the loss of an image and its gradient."""

    def __init__(self, actor):
        self.classifier = connected(actor, "cpu")

    def __call__(self, unit):
        values, gradients = asked_of(self.classifier, unit)
        return float(values), gradients.numpy()


def asked_of(classifier, unit):
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(unit))
    return TargetClass(classifier, torch.tensor([unit])).value_and_gradient(image)


def test_a_classifier_of_its_own_answers_alike_and_comes_back(cluster):
    import ray

    name, alone = "planted:biased", load_classifier("planted:biased")
    placement = Placement(
        workers=(1, 2), num_gpus=1, num_cpus=0.5, classifiers="remote", classifier_gpus=0
    )
    with session() as started:
        (actor,) = serve(started, [name], placement).values()
        assert serve(started, [name], placement) == {name: actor}
        found = {}
        for unit, (value, gradient) in WorkerPool(Asking, (actor,), placement).map(range(4)):
            found[unit] = value, gradient
            if len(found) < 3:
                ray.kill(actor, no_restart=False)
    assert len(found) == 4
    for unit, (value, gradient) in found.items():
        values, gradients = asked_of(alone, unit)
        assert value == pytest.approx(float(values), abs=1e-5)
        assert abs(gradient - gradients.numpy()).max() < 1e-5


@dataclass(frozen=True)
class Slow:
    """A unit."""

    name: str


def prepare(unit):
    import ray

    return pa.table({"prepared_on": [ray.get_runtime_context().get_node_id()]})


class Sleeper:
    """Stands in for a model on a GPU: its forward takes time and none of this machine's cores."""

    def __init__(self, folder, workers):
        self.folder, self.workers = folder, workers

    def __call__(self, prepared):
        import ray

        wait_for_all(self.folder, self.workers)
        began = time.monotonic()
        time.sleep(0.4)
        node = ray.get_runtime_context().get_node_id()
        return node, prepared["prepared_on"][0].as_py(), began, time.monotonic()


def streamed(folder, workers):
    """Units a second while all workers are at it, and the nodes that finished and prepared."""
    units = [Slow(f"{k:03d}") for k in range(24 * workers)]
    placement = Placement(workers=(workers, workers), num_gpus=1, num_cpus=0.5)
    with session():
        found = [
            r for _, r in Stream[Slow](prepare, Sleeper, (folder, workers), placement).map(units)
        ]
    # At steady rate: without the first and last units, when some workers are not at work.
    ends = sorted(end for _, _, _, end in found)[6 * workers : -6 * workers]
    return (len(ends) - 1) / (ends[-1] - ends[0]), {f[0] for f in found}, {f[1] for f in found}


def test_a_stream_spreads_over_nodes_and_is_faster_with_more_workers(cluster, tmp_path):
    folders = tmp_path / "one", tmp_path / "three"
    for folder in folders:
        folder.mkdir()
    alone, one_node, _ = streamed(folders[0], 1)
    together, nodes, prepared = streamed(folders[1], 3)
    assert len(one_node) == 1
    assert len(nodes) == 2
    assert len(prepared) >= 2
    assert together > 1.8 * alone


def test_a_stream_whose_workers_ask_for_all_cores_prepares_all_the_same(cluster, tmp_path):
    units = [Slow(f"{k:03d}") for k in range(8)]
    placement = Placement(workers=(2, 2), num_gpus=1, num_cpus=3)
    with session():
        found = list(Stream[Slow](prepare, Sleeper, (tmp_path, 2), placement).map(units))
    assert sorted(unit.name for unit, _ in found) == [unit.name for unit in units]
    assert len({node for _, (node, *_) in found}) == 2
