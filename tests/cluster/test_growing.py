"""A cluster without a GPU yet: a node that has one is started for a job that asks."""

import logging
import os
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import pytest
import yaml

from whylens.cluster.node_types import node_types
from whylens.cluster.placement import Placement
from whylens.cluster.pool import WorkerPool
from whylens.cluster.room import settled
from whylens.cluster.session import session
from whylens.errors import UsageError

from .conftest import MARK, free_ports, stop_marked

pytestmark = pytest.mark.slow

SMALL = 80 * 1024 * 1024
COMMANDS = (
    "initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray",
)  # fmt: skip
CONFIG = {
    "cluster_name": "growing",
    "max_workers": 2,
    "upscaling_speed": 9999,
    "idle_timeout_minutes": 5,
    # What Ray's launcher fills in; nothing is set up on these nodes.
    **{name: {} for name in ("auth", "docker", "file_mounts")},
    **{f"{name}_commands": [] for name in COMMANDS},
    "cluster_synced_files": [],
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "gpu": {
            "resources": {"CPU": 1, "GPU": 1, "object_store_memory": SMALL},
            "node_config": {},
            "min_workers": 0,
            "max_workers": 2,
        },
    },
}


@pytest.fixture(scope="module")
def growing():
    """A head that does no work, with Ray's autoscaler and its nodes for tests: raylets here."""
    mark = uuid.uuid4().hex
    gcs, dashboard, agent, client = free_ports(4)
    address = f"127.0.0.1:{gcs}"
    with tempfile.TemporaryDirectory(prefix="wl-", ignore_cleanup_errors=True) as temporary:
        provider = {"type": "fake_multinode", "gcs_address": address}
        config = Path(temporary, "cluster.yaml")
        config.write_text(yaml.safe_dump({**CONFIG, "provider": provider}))
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        environment |= {MARK: mark, "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        # Without a token, whether this machine's user has one or not; but a local session before
        # has set this process to use one, and each of both has to understand the other.
        environment.setdefault("RAY_AUTH_MODE", "disabled")
        try:
            started = subprocess.run(
                [
                    str(Path(sys.executable).parent / "ray"), "start", "--head", "--num-cpus=0",
                    f"--object-store-memory={SMALL}", f"--autoscaling-config={config}",
                    "--node-ip-address=127.0.0.1", f"--port={gcs}", "--include-dashboard=false",
                    f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}",
                    f"--ray-client-server-port={client}", f"--temp-dir={temporary}",
                    "--disable-usage-stats",
                ],
                env=environment, capture_output=True, text=True, check=False, timeout=180,
            )  # fmt: skip
            assert started.returncode == 0, started.stdout + started.stderr
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("RAY_ADDRESS", address)
                yield
        finally:
            stop_marked(mark)


class Node:
    """Tells the node that it is on."""

    def __call__(self, unit):
        import ray

        return ray.get_runtime_context().get_node_id()


def alive(ray):
    return {node["NodeID"] for node in ray.nodes() if node["Alive"] and "GPU" in node["Resources"]}


def test_a_node_with_a_gpu_comes_when_it_is_asked_for(growing, monkeypatch, caplog):
    monkeypatch.setattr("whylens.cluster.pool.SECONDS_BETWEEN_LINES", 0.5)
    caplog.set_level(logging.INFO, "whylens.cluster")
    with session() as ray:
        assert not alive(ray)
        (kind,) = node_types()
        assert (kind.name, kind.resources["GPU"], kind.most) == ("gpu", 1, 2)
        placement = settled(ray, Placement(workers=(1, 1)))
        assert placement.num_gpus == 1
        (one, other) = (node for _, node in WorkerPool(Node, (), placement).map(range(2)))
        assert one == other
        assert {one} == alive(ray)
    assert "there is room for 0 of at least 1 workers of 1 CPUs and 1 GPUs" in caplog.text
    assert "waiting for a worker to start, or for room for one of" in caplog.text


def test_what_no_node_type_can_give_is_refused_with_their_names(growing, monkeypatch):
    monkeypatch.setattr("whylens.cluster.room.SECONDS_TO_WAIT", 0.0)
    wide = Placement(workers=(1, 1), num_gpus=2)
    with session(), pytest.raises(UsageError, match=r"1 are asked.*gpu \(1 CPU, 1 GPU, .*most 2\)"):
        list(WorkerPool(Node, (), wide).map([0]))
    many = Placement(workers=(3, 3), num_gpus=1)
    with session(), pytest.raises(UsageError, match="that it may start for 2, but 3 are asked"):
        list(WorkerPool(Node, (), many).map(range(3)))
