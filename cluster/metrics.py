"""What a run tells Prometheus, through Ray's metrics: the names, and what they mean.

`infra/grafana/dashboard.json` is drawn from these by `infra/grafana/draw.py`. Ray puts `ray_` in
front of every name that it exports.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

EXPORTED = "ray_"
# Of every one, which run and stage it is of; of a worker's, which worker. The label `job` is
# Prometheus' own, for what it reads from.
RUN, WORKER = ("run", "stage"), ("run", "stage", "host", "pid")


@dataclass(frozen=True)
class Metric:
    """A number that goes up and down, its unit as Grafana calls it, and its labels."""

    name: str
    help: str
    unit: str = "short"
    labels: tuple[str, ...] = RUN


PLANNED = Metric("whylens_units_planned", "Units of the stage")
DONE = Metric("whylens_units_done", "Units that have a part")
WAITING = Metric("whylens_units_waiting", "Units that are neither done nor given up")
FAILED = Metric("whylens_units_failed", "Units that failed last time they were tried")
RETRIED = Metric("whylens_units_retried", "Tries of units after the first")
RATE = Metric("whylens_units_per_second", "Units done a second, since the stage's start", "ops")
LEFT = Metric("whylens_seconds_left", "Seconds until the stage is done, at that rate", "s")
GPU_USE = Metric(
    "whylens_gpu_use", "Part of the time a worker's GPU is busy", "percentunit", WORKER
)
GPU_MEMORY = Metric("whylens_gpu_memory_bytes", "Memory in use on a worker's GPU", "bytes", WORKER)
GPU_TOTAL = Metric("whylens_gpu_memory_size_bytes", "Memory of a worker's GPU", "bytes", WORKER)
METRICS = (PLANNED, DONE, WAITING, FAILED, RETRIED, RATE, LEFT, GPU_USE, GPU_MEMORY, GPU_TOTAL)

_gauges: dict[str, Any] = {}


def tell(values: Mapping[Metric, float | None], labels: Mapping[str, str]) -> None:
    """Set metrics; nothing where this process has no Ray, since nobody would hear of them."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return
    from ray.util.metrics import Gauge

    for metric, value in values.items():
        if value is None:
            continue
        if metric.name not in _gauges:
            _gauges[metric.name] = Gauge(metric.name, metric.help, tag_keys=metric.labels)
        _gauges[metric.name].set(value, {name: labels.get(name, "") for name in metric.labels})
