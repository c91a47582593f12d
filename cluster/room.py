"""How many workers a cluster has room for, as Ray counts it, now and when it has grown."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from whylens.cluster.node_types import node_types, untold
from whylens.cluster.placement import ROUNDING, Resources
from whylens.cluster.session import booked, on_cluster, start
from whylens.errors import UsageError

logger = logging.getLogger(__name__)

# A cluster that was just started says after some seconds which nodes it can have.
SECONDS_TO_WAIT = 5.0

Amounts = Mapping[str, float]

Kind = TypeVar("Kind", bound=Resources)


def settled(ray: Any, placement: Kind) -> Kind:
    """The placement with its GPUs known: of `auto` one a worker where a node has one, or may have
    one when the cluster has grown; else none."""
    if placement.num_gpus != "auto":
        return placement
    nodes = [*_nodes(ray), *(kind.resources for kind in node_types())]
    has_gpus = any(resources.get("GPU", 0) >= 1 for resources in nodes)
    return placement.model_copy(update={"num_gpus": 1.0 if has_gpus else 0.0})


def of_stage(own: Resources | None, runs: Resources) -> Resources:
    """The placement of a stage: its own, settled, where it has one, else the run's."""
    return runs if own is None else settled(start(), own)


def room(ray: Any, placement: Resources) -> int:
    """Workers of the placement that fit on the nodes that are there, node by node."""
    return sum(_room_on(resources, placement.booked) for resources in _nodes(ray))


def cores(ray: Any) -> float:
    """CPU cores of the nodes that are there, but for what remote classifiers book."""
    return sum(resources.get("CPU", 0.0) for resources in _nodes(ray))


def sizes(ray: Any, placement: Resources, units: int) -> tuple[int, int]:
    """Workers for so many units: how many there is room for now, and how many in the end.

    A cluster may grow while the job runs; this machine does not. Where nodes that a cluster can
    have would give room, too little room now is none's fault.

    Raises
    ------
    UsageError
        If there will never be room for as many as the placement asks for.
    """
    there = room(ray, placement)
    if there < (fewest := placement.workers[0]):
        _refuse_where_never(ray, placement, there)
        logger.info(
            "there is room for %d of at least %d workers of %s: waiting for nodes", there, fewest,
            told(placement),
        )  # fmt: skip
    most = min(placement.workers[1], units)
    now = min(most, there)
    return now, most if on_cluster() else now


def told(placement: Resources) -> str:
    """What a worker books, in words."""
    parts = [f"{placement.num_cpus:g} CPUs", f"{placement.gpus:g} GPUs"]
    if placement.accelerator_type is not None:
        parts[-1] += f" ({placement.accelerator_type})"
    if placement.memory is not None:
        parts.append(f"{placement.memory:g} GiB")
    parts += [f"{amount:g} {name}" for name, amount in placement.resources.items()]
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _refuse_where_never(ray: Any, placement: Resources, there: int) -> None:
    """UsageError where no nodes that the cluster may have give room for the fewest workers.

    Where an autoscaler tells nobody which these are, it is given the time that it takes.
    """
    fewest, until = placement.workers[0], time.monotonic() + SECONDS_TO_WAIT
    will_say = on_cluster() and not untold()
    while not (types := node_types()) and will_say and time.monotonic() < until:
        time.sleep(0.5)
    possible = sum(
        kind.most * each for kind in types if (each := _room_on(kind.resources, placement.booked))
    )
    if max(there, possible) >= fewest or (not types and untold()):
        return
    grown = f", and with all nodes that it may start for {possible:g}" if types else ""
    kinds = f"; node types: {'; '.join(map(str, types))}" if types else ""
    raise UsageError(
        f"the cluster has room for {there} workers of {told(placement)}{grown}, but {fewest} are "
        f"asked for{kinds}"
    )


def _nodes(ray: Any) -> Iterator[Amounts]:
    """What each node has, without what remote classifiers book there."""
    taken = booked()
    for node in ray.nodes():
        if node["Alive"]:
            used = taken.get(node.get("NodeID"), {})
            yield {k: v - used.get(k, 0) for k, v in node["Resources"].items()}


def _room_on(resources: Amounts, each: Amounts) -> int:
    return min(int(resources.get(name, 0.0) / amount + ROUNDING) for name, amount in each.items())
