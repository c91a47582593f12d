"""Worker processes that serve one stage after another: starting one costs seconds of imports."""

import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from traceback import format_exc
from typing import Any, Protocol

from whylens import logs
from whylens.cluster.gpus import watch
from whylens.cluster.placement import Placement
from whylens.errors import WhylensError

logger = logging.getLogger(__name__)

# torch's own switch, read when it is first needed; 0 in the driver's environment turns it off.
TF32 = "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"


class Named(Protocol):
    """A unit of a stage: its name is its part's."""

    @property
    def name(self) -> str:
        """Sorts, and is safe as a file name."""


@dataclass(frozen=True)
class UnitFailed:
    """Why a unit has no part; where that was seen, and how the code got there."""

    reason: str
    host: str = field(default="", compare=False)
    traceback: str = field(default="", compare=False)

    @classmethod
    def by(cls, error: Exception) -> "UnitFailed":
        """Of the error that is being handled, on this host."""
        return cls(f"{type(error).__name__}: {error}", socket.gethostname(), format_exc())


class Host:
    """An actor that holds one worker object; errors that the user should see are returned."""

    def __init__(self) -> None:
        self._worker: Any = None
        self._about: dict[str, str] = {}

    def load(
        self, make: Callable[..., Any], arguments: Sequence[Any], about: Mapping[str, str]
    ) -> WhylensError | None:
        """Hold `make(*arguments)` instead of what was held before; `about` is what logs tell."""
        self._worker, self._about = None, dict(about)
        logs.configure()
        if "torch" in sys.modules:  # it may hold the last worker's memory
            sys.modules["torch"].cuda.empty_cache()
        with logs.about(**self._about):
            try:
                self._worker = make(*arguments)
            except WhylensError as error:
                return error
            except Exception as error:
                # Every worker would fail so, whatever the unit.
                logger.exception("a worker could not start")
                told = WhylensError(f"a worker could not start: {type(error).__name__}: {error}")
                told.add_note(f"On {socket.gethostname()}:\n{format_exc()}")
                return told
            watch()
        return None

    def work(self, unit: Any) -> Any:
        """What the worker makes of a unit, UnitFailed, or a WhylensError."""
        with logs.about(**self._about, unit=getattr(unit, "name", "")):
            try:
                return self._worker(unit)
            except WhylensError as error:
                return error
            except Exception as error:
                logger.exception("a unit failed")
                return UnitFailed.by(error)


class Crew:
    """The hosts of a session: those that no pool uses wait for the next pool of their kind."""

    def __init__(self) -> None:
        self._idle: dict[tuple[float, float], list[Any]] = {}

    def hire(self, ray: Any, count: int, placement: Placement) -> list[Any]:
        """That many hosts, the idle ones first; idle ones of other sizes make room."""
        idle = self._idle.pop(_kind(placement), [])
        self.dismiss(ray)
        hosts, surplus = idle[:count], idle[count:]
        for host in surplus:
            ray.kill(host)
        return hosts + [spawn(ray, placement) for _ in range(count - len(hosts))]

    def keep(self, hosts: Sequence[Any], placement: Placement) -> None:
        """Take back hosts that have nothing to do."""
        self._idle.setdefault(_kind(placement), []).extend(hosts)

    def dismiss(self, ray: Any) -> None:
        """Stop all idle hosts."""
        for hosts in self._idle.values():
            for host in hosts:
                ray.kill(host)
        self._idle.clear()


def spawn(ray: Any, placement: Placement) -> Any:
    """A new host; it waits where the cluster has no room for it yet."""
    remote = ray.remote(Host).options(
        num_cpus=placement.num_cpus,
        num_gpus=placement.gpus,
        runtime_env=environment(placement),
    )
    return remote.remote()


def arithmetic() -> str:
    """What workers on GPUs calculate in, for a report."""
    products = "TF32" if _tf32() == "1" else "float32"
    return (
        "GPUs: samplers in bfloat16 where a GPU has it, unless their names say otherwise; "
        f"classifiers in float32, their matrix products in {products}"
    )


def environment(placement: Placement) -> dict[str, Any]:
    """A worker's runtime environment: its threads, and the driver's settings that it needs."""
    threads = max(1, int(placement.num_cpus))
    variables = {"OMP_NUM_THREADS": str(threads), **_offline()}
    if placement.gpus > 0:
        # float32 matrix products of classifiers take TF32, as torch's convolutions do anyway.
        variables[TF32] = _tf32()
    return {"env_vars": variables}


def _tf32() -> str:
    return os.environ.get(TF32, "1")


def _kind(placement: Placement) -> tuple[float, float]:
    return placement.num_cpus, placement.gpus


def _offline() -> dict[str, str]:
    """Settings of the driver that workers need to see."""
    needed = ("HF_HUB_OFFLINE", "HF_HOME", logs.VARIABLE)
    return {k: os.environ[k] for k in needed if k in os.environ}
