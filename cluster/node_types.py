"""Which nodes a cluster may start: what its autoscaler was configured with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from whylens.cluster.session import on_cluster

CONFIGURED = "--autoscaling-config="


class NodeType(NamedTuple):
    """A kind of node, what each has, and how many of them there may be at most."""

    name: str
    resources: Mapping[str, float]
    most: float

    def __str__(self) -> str:
        has = ", ".join(f"{amount:g} {name}" for name, amount in self.resources.items() if amount)
        return f"{self.name} ({has or 'nothing said'}; at most {self.most:g})"


def node_types() -> list[NodeType]:
    """The kinds of nodes that an autoscaler may start; none where no autoscaler is known.

    Ray has a place for them in its store, which no autoscaler of its own fills (2.60). Cluster
    launchers' is read where it runs: on the head, where a submitted job's driver is, too.
    """
    import ray

    if not on_cluster() or not ray.is_initialized():
        return []
    # What Ray's own libraries ask; there is no public way.
    config = ray._private.state.state.get_cluster_config()
    if config is not None and config.node_group_configs:
        return [
            NodeType(group.name, dict(group.resources), _count(group.max_count))
            for group in config.node_group_configs
        ]
    return _configured(ray.get_runtime_context().gcs_address)


def untold() -> bool:
    """Whether an autoscaler works that tells nobody what it may start: KubeRay's.

    Its operator starts a head with an autoscaler beside it without Ray's own monitor, and leaves
    how in the environment of the head's container, where a submitted job's driver is.
    """
    return "--no-monitor" in os.environ.get("KUBERAY_GEN_RAY_START_CMD", "")


@cache
def _configured(address: str) -> list[NodeType]:
    """By the file that this cluster's autoscaler was started with, if it runs on this machine."""
    import yaml

    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = place.read_text().split("\0")
        except OSError:  # it has ended since
            continue
        if f"--gcs-address={address}" not in words:
            continue
        for word in words:
            if word.startswith(CONFIGURED):
                config = yaml.safe_load(Path(word.removeprefix(CONFIGURED)).read_text())
                return _types(config)
    return []


def _types(config: Mapping[str, Any]) -> list[NodeType]:
    """The workers' of a cluster launcher's configuration."""
    total = _count(config.get("max_workers", 2))
    return [
        NodeType(name, kind.get("resources", {}), min(total, _count(kind.get("max_workers", 0))))
        for name, kind in config.get("available_node_types", {}).items()
        if name != config.get("head_node_type")
    ]


def _count(most: float) -> float:
    return most if most >= 0 else float("inf")
