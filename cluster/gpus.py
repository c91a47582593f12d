"""How busy and how full the workers' GPUs are: told by each worker, seen by the driver."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from whylens import logs
from whylens.cluster import metrics

logger = logging.getLogger(__name__)

SECONDS = 10.0
# What was told longer ago is of a worker that is gone.
STALE = 60.0

_watching = threading.Event()


def watch() -> None:
    """Tell of this process's GPU from now on; nothing where it has none, or does already."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or _watching.is_set():
        return
    _watching.set()
    threading.Thread(target=_keep_telling, args=(torch, logs.current()), daemon=True).start()


def seen() -> list[dict[str, Any]]:
    """The GPUs of this job's workers, a dict each, as they told last; none without Ray.

    host, pid: the worker's
    use: part of the time its GPU was busy, 0 to 1; None where nvidia-ml-py is not installed
    memory, of: GiB in use on the GPU, by whomever, and that it has
    """
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return []
    from ray.experimental import internal_kv as store

    found = []
    for key in store._internal_kv_list(_prefix(ray)):
        told = json.loads(store._internal_kv_get(key) or b"{}")
        if time.time() - told.pop("time", 0.0) > STALE:
            store._internal_kv_del(key)
        else:
            found.append(told)
    return sorted(found, key=lambda gpu: (gpu["host"], gpu["pid"]))


def tell(torch: Any, about: Mapping[str, str]) -> None:
    """Tell once of this process's GPU; `about` is what its logs are about."""
    import ray
    from ray.experimental import internal_kv as store

    host, pid = socket.gethostname(), os.getpid()
    free, size = torch.cuda.mem_get_info()
    use = _use(torch)
    values = {
        metrics.GPU_USE: use,
        metrics.GPU_MEMORY: float(size - free),
        metrics.GPU_TOTAL: float(size),
    }
    metrics.tell(values, {**about, "host": host, "pid": str(pid)})
    told = {
        "host": host,
        "pid": pid,
        "use": use,
        "memory": round((size - free) / 2**30, 2),
        "of": round(size / 2**30, 2),
        "time": time.time(),
    }
    key = f"{_prefix(ray)}{host}:{pid}"
    store._internal_kv_put(key, json.dumps(told).encode(), overwrite=True)


def _keep_telling(torch: Any, about: Mapping[str, str]) -> None:
    while True:
        try:
            tell(torch, about)
        except Exception:
            # It is only told; the work goes on.
            logger.debug("a GPU could not be looked at", exc_info=True)
        time.sleep(SECONDS)


def _use(torch: Any) -> float | None:
    try:
        return float(torch.cuda.utilization()) / 100
    except ModuleNotFoundError:
        return None


def _prefix(ray: Any) -> str:
    return f"whylens-gpu:{ray.get_runtime_context().get_job_id()}:"
