"""One Ray session for the process: the cluster that is there, or a local one with no set-up."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger(__name__)

# Local sessions hold small parts only: features and thumbnails go to the run folder.
LOCAL_OBJECT_STORE = 256 * 1024 * 1024


def start() -> Any:
    """The module ray, initialised: RAY_ADDRESS names a cluster, otherwise it runs locally."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    import ray

    if ray.is_initialized():
        return ray
    options: dict[str, Any] = {
        "logging_level": logging.ERROR,
        "log_to_driver": False,
        "configure_logging": False,
        "include_dashboard": False,
    }
    if not os.environ.get("RAY_ADDRESS"):
        options["object_store_memory"] = LOCAL_OBJECT_STORE
    ray.init(**options)
    logger.info("Ray is up: %s", ray.cluster_resources())
    return ray


@contextmanager
def session() -> Iterator[Any]:
    """A Ray session that all stages inside share; a session that was there before stays."""
    import ray

    there = ray.is_initialized()
    yield start()
    if not there:
        ray.shutdown()
