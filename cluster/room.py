"""How many workers a cluster has room for."""

from __future__ import annotations

from typing import Any

from whylens.cluster.placement import Placement
from whylens.cluster.session import on_cluster
from whylens.errors import UsageError


def settled(ray: Any, placement: Placement) -> Placement:
    """The placement with its GPUs known: of `auto` one a worker where a node has one, else none."""
    if placement.num_gpus != "auto":
        return placement
    there = max(
        (node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"]), default=0
    )
    return placement.model_copy(update={"num_gpus": 1.0 if there >= 1 else 0.0})


def room(ray: Any, placement: Placement) -> int:
    """Workers of the placement that fit on the nodes that are there, node by node.

    Raises
    ------
    UsageError
        If they are fewer than the placement asks for.
    """
    found = sum(_room_on(node["Resources"], placement) for node in ray.nodes() if node["Alive"])
    if found < placement.workers[0]:
        raise UsageError(
            f"the cluster has room for {found} workers of {placement.num_cpus:g} "
            f"CPUs and {placement.gpus:g} GPUs, but {placement.workers[0]} are asked for"
        )
    return found


def sizes(ray: Any, placement: Placement, units: int) -> tuple[int, int]:
    """Workers for so many units: how many there is room for now, and how many in the end.

    A cluster may grow while the job runs; this machine does not.

    Raises
    ------
    UsageError
        As `room`.
    """
    there = room(ray, placement)
    most = min(placement.workers[1], units)
    now = min(most, there)
    return now, most if on_cluster() else now


def _room_on(resources: dict[str, float], placement: Placement) -> int:
    each = {"CPU": placement.num_cpus, "GPU": placement.gpus}
    return min(int(resources.get(k, 0) / v + 1e-6) for k, v in each.items() if v > 0)
