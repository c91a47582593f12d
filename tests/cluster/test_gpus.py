"""Workers tell of their GPUs, and the driver sees those of workers that are there."""

import json
import os
import socket
from types import SimpleNamespace

import pytest

from whylens.cluster import gpus

GIB = 2**30


class Cuda:
    """torch.cuda of a GPU of 80 GiB, a quarter of which is in use."""

    def __init__(self, use):
        self.use = use

    def mem_get_info(self):
        return 60 * GIB, 80 * GIB

    def utilization(self):
        if self.use is None:
            raise ModuleNotFoundError("pynvml")
        return self.use


@pytest.fixture
def store(monkeypatch):
    """Ray's key-value store, as a dictionary, and a job of the id 7."""
    import ray
    from ray.experimental import internal_kv

    kept = {}
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_job_id=lambda: "7"))
    monkeypatch.setattr(gpus.metrics, "tell", lambda values, labels: None)
    monkeypatch.setattr(
        internal_kv, "_internal_kv_put", lambda key, value, overwrite: kept.update({key: value})
    )
    monkeypatch.setattr(internal_kv, "_internal_kv_get", kept.get)
    monkeypatch.setattr(internal_kv, "_internal_kv_del", kept.pop)
    monkeypatch.setattr(
        internal_kv,
        "_internal_kv_list",
        lambda start: [key for key in kept if key.startswith(start)],
    )
    return kept


@pytest.mark.parametrize(("use", "part"), [(45, 0.45), (None, None)])
def test_what_a_worker_tells_is_seen(store, use, part):
    gpus.tell(SimpleNamespace(cuda=Cuda(use)), {})
    here = {"host": socket.gethostname(), "pid": os.getpid()}
    assert gpus.seen() == [{**here, "use": part, "memory": 20.0, "of": 80.0}]


def test_workers_that_are_gone_and_other_jobs_are_not_seen(store):
    gpus.tell(SimpleNamespace(cuda=Cuda(45)), {})
    (key,) = store
    told = json.loads(store[key])
    store["whylens-gpu:8:there:1"] = store[key]
    store["whylens-gpu:7:there:1"] = json.dumps({**told, "time": 0.0}).encode()
    assert [gpu["pid"] for gpu in gpus.seen()] == [os.getpid()]
    assert "whylens-gpu:7:there:1" not in store
