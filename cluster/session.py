"""One Ray session for the process: the cluster that is there, or a local one with no set-up."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from whylens.cluster.workers import Crew
from whylens.errors import UsageError, WhylensError

logger = logging.getLogger(__name__)

# Local sessions hold what is decoded ahead of the workers, 40 MB for 256 images of 224 px, of which
# Ray Data takes half the room at most. Memory is taken when it is used.
LOCAL_OBJECT_STORE = 512 * 1024 * 1024
STARTS = 3

_crew: ContextVar[Crew | None] = ContextVar("crew", default=None)


def on_cluster() -> bool:
    """Whether RAY_ADDRESS names a cluster."""
    return os.environ.get("RAY_ADDRESS", "local") not in ("", "local")


def start() -> Any:
    """The module ray, initialised: RAY_ADDRESS names a cluster, otherwise it runs locally.

    Raises
    ------
    UsageError
        If no cluster answers at RAY_ADDRESS.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    import ray

    if ray.is_initialized():
        return ray
    options: dict[str, Any] = {
        "logging_level": logging.ERROR,
        "log_to_driver": False,
        "configure_logging": False,
    }
    if not on_cluster():
        # Said outright: without an address Ray would join whatever cluster runs on this machine.
        options |= {
            "address": "local",
            "object_store_memory": LOCAL_OBJECT_STORE,
            "include_dashboard": False,
        }
    try:
        _init(ray, options)
    except ConnectionError as error:
        raise UsageError(
            f"no Ray cluster answers at RAY_ADDRESS={os.environ.get('RAY_ADDRESS', '')}: "
            "start it, or unset RAY_ADDRESS to run on this machine"
        ) from error
    logger.info("Ray is up: %s", ray.cluster_resources())
    return ray


def dashboard() -> str | None:
    """Where the dashboard of the Ray is that this process uses, "HOST:PORT"; None: it has none."""
    import ray

    if not ray.is_initialized():
        return None
    there = ray.init(ignore_reinit_error=True, logging_level=logging.ERROR)
    return there.address_info.get("webui_url") or None


def _init(ray: Any, options: dict[str, Any]) -> None:
    """`ray.init`, tried again where the machine is too busy for the 30 seconds that Ray waits."""
    for attempt in range(1, STARTS + 1):
        try:
            ray.init(**options)
        except Exception as error:
            # Ray raises a bare Exception here.
            if "timed out during startup" not in str(error):
                raise
            ray.shutdown()
            if attempt == STARTS:
                raise WhylensError(
                    f"Ray did not start, tried {STARTS} times for 30 s: this machine is too busy. "
                    "Start the same command again later"
                ) from error
            logger.warning("Ray did not start within 30 s: trying again")
        else:
            return


@contextmanager
def session() -> Iterator[Any]:
    """A Ray session whose worker processes all stages inside share.

    A Ray session that was there before stays.
    """
    import ray

    there = ray.is_initialized()
    crew = Crew()
    token = _crew.set(crew)
    try:
        yield start()
    finally:
        _crew.reset(token)
        if ray.is_initialized():
            crew.disband(ray)
            if not there:
                ray.shutdown()


@contextmanager
def hired(ray: Any) -> Iterator[Crew]:
    """The session's crew; outside of a session one that is dismissed at the end."""
    crew = _crew.get()
    if crew is not None:
        yield crew
        return
    crew = Crew()
    try:
        yield crew
    finally:
        crew.disband(ray)


def booked() -> dict[str, dict[str, float]]:
    """What the session's remote classifiers book, by node and resource."""
    taken: dict[str, dict[str, float]] = {}
    crew = _crew.get()
    for served in crew.classifiers.values() if crew else ():
        node = taken.setdefault(served.node, {})
        for name, amount in served.booked.items():
            node[name] = node.get(name, 0.0) + amount
    return taken
