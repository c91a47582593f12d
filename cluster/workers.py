"""Worker processes that serve one stage after another: starting one costs seconds of imports."""

import logging
import os
import socket
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from traceback import format_exc
from typing import Any, Protocol

from whylens import logs
from whylens.cluster.gpus import watch
from whylens.cluster.kept import keeping
from whylens.cluster.placement import Resources
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
        """Hold `make(*arguments)` instead of what was held before, but for models of both; `about`
        is what logs tell."""
        self._worker, self._about = None, dict(about)
        logs.configure()
        with logs.about(**self._about):
            try:
                with keeping():
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
        if "torch" in sys.modules:  # it may hold the last worker's memory
            sys.modules["torch"].cuda.empty_cache()
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


@dataclass(frozen=True)
class Served:
    """A remote classifier's actor, its node, and what it books there."""

    actor: Any
    node: str
    booked: Mapping[str, float]


class Crew:
    """The hosts of a session, by what they book: those that no pool uses wait for the next pool
    that they serve. A host with a GPU serves a stage without, and keeps its models."""

    def __init__(self) -> None:
        self._idle: list[tuple[Any, Resources]] = []
        self.classifiers: dict[str, Served] = {}

    def hire(self, ray: Any, count: int, placement: Resources) -> list[tuple[Any, Resources]]:
        """That many hosts, the idle ones first; idle ones that do not serve make room."""
        serving = [one for one in self._idle if _serves(one[1], placement)]
        self._idle = [one for one in self._idle if not _serves(one[1], placement)]
        self.dismiss(ray)
        # Those with GPUs first: their models take longest to load.
        serving.sort(key=lambda one: -one[1].gpus)
        hosts, surplus = serving[:count], serving[count:]
        for host, booked in surplus:
            if booked.gpus > placement.gpus:
                self._idle.append((host, booked))
            else:
                ray.kill(host)
        new = count - len(hosts)
        return hosts + [(spawn(ray, placement), placement) for _ in range(new)]

    def keep(self, hosts: Iterable[tuple[Any, Resources]]) -> None:
        """Take back hosts that have nothing to do."""
        self._idle.extend(hosts)

    def disband(self, ray: Any) -> None:
        """Stop all that there is: the session is over."""
        self.dismiss(ray)
        for served in self.classifiers.values():
            ray.kill(served.actor)
        self.classifiers.clear()

    def dismiss(self, ray: Any) -> None:
        """Stop all idle hosts."""
        for host, _ in self._idle:
            ray.kill(host)
        self._idle.clear()


def spawn(ray: Any, placement: Resources) -> Any:
    """A new host; it waits where the cluster has no room for it yet."""
    remote = ray.remote(Host).options(**placement.options, runtime_env=environment(placement))
    return remote.remote()


def arithmetic() -> str:
    """What workers on GPUs calculate in, for a report."""
    products = "TF32" if _tf32() == "1" else "float32"
    return (
        "GPUs: samplers in bfloat16 where a GPU has it, unless their names say otherwise; "
        f"classifiers in float32, their matrix products in {products}"
    )


def environment(placement: Resources) -> dict[str, Any]:
    """A worker's runtime environment: its threads, and the driver's settings that it needs."""
    threads = max(1, int(placement.num_cpus))
    variables = {"OMP_NUM_THREADS": str(threads), **_offline()}
    if placement.gpus > 0:
        # float32 matrix products of classifiers take TF32, as torch's convolutions do anyway.
        variables[TF32] = _tf32()
    return {"env_vars": variables}


def _tf32() -> str:
    return os.environ.get(TF32, "1")


def _serves(there: Resources, asked: Resources) -> bool:
    """Whether hosts that book this can do what is asked for: the same, or without their GPUs."""
    return there.options == asked.options or (
        asked.gpus == 0 and there.without_gpus.options == asked.options
    )


def _offline() -> dict[str, str]:
    """Settings of the driver that workers need to see."""
    needed = ("HF_HUB_OFFLINE", "HF_HOME", logs.VARIABLE)
    return {k: os.environ[k] for k in needed if k in os.environ}
