"""A run's lease: one process drives a run, and a second one is told which.

A lease is a file with a number, `leases/000003.json`, which is created only where it isn't there
(`Storage.create`), and says who holds it and when they were last alive. Nobody removes one: the
highest number holds, so that of several who find it old exactly one takes over, and who was taken
over (a laptop that woke up, a network that came back) sees it.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from whylens.errors import UsageError, WhylensError
from whylens.runs.storage import Storage

FOLDER = "leases"
# Seconds between heartbeats, and after the last one until a driver is taken for dead. Clocks of
# machines that share a run may differ by less than the difference.
BEAT, DEAD_AFTER = 15.0, 60.0


class LeaseLostError(WhylensError):
    """Another process has taken the run over."""


class Lease:
    """A lease that this process holds until it is released."""

    def __init__(self, storage: Storage) -> None:
        """Take the lease of a run's folder.

        Raises
        ------
        UsageError
            If a process that is alive holds it; the message names it.
        """
        self._storage = storage
        self._token = uuid.uuid4().hex
        while True:
            number, held = _last(storage)
            refuse(held, storage.url)
            self._number = number + 1
            if storage.create(_name(self._number), self._content()):
                return

    def renew(self) -> None:
        """Say that this process is alive.

        Raises
        ------
        LeaseLostError
            If another process has taken the lease over.
        """
        number, held = _last(self._storage)
        if number > self._number and held.get("driver") != me():
            raise LeaseLostError(
                f"{_who(held)} has taken over {self._storage.url}, since this process gave no sign "
                f"of life for {DEAD_AFTER:.0f} s: it stops, and the other one goes on"
            )
        self._storage.write(_name(self._number), self._content())

    def release(self) -> None:
        """Let others have it at once."""
        self._storage.write(_name(self._number), self._content(released=True))

    def _content(self, released: bool = False) -> bytes:
        said = {"driver": me(), "token": self._token, "heartbeat": time.time()}
        return json.dumps({**said, "released": released}).encode()


def me() -> dict[str, Any]:
    """This process, as others tell it apart."""
    return {"host": socket.gethostname(), "pid": os.getpid()}


def refuse_second(storage: Storage) -> None:
    """Find out whether a run can be worked on, before anything is written to it.

    Raises
    ------
    UsageError
        If another process that is alive holds its lease; the message names it.
    """
    refuse(_last(storage)[1], storage.url)


def refuse(held: Mapping[str, Any], url: str) -> None:
    """Raise UsageError where a record (of a lease, or of a run) names a process that is alive."""
    if told := working(held):
        raise UsageError(
            f"{told} works on {url}: wait for it or stop it, or name another folder with --out"
        )


def working(held: Mapping[str, Any]) -> str | None:
    """The other process that a record names as alive; None if there is none.

    A process of this host that is gone works on nothing, whatever it said last.
    """
    driver, last = held.get("driver"), held.get("heartbeat")
    if not driver or not last or held.get("released") or time.time() - last > DEAD_AFTER:
        return None
    if driver["host"] == socket.gethostname() and (
        driver["pid"] == os.getpid() or not _alive(driver["pid"])
    ):
        return None
    return _who(held)


def _who(held: Mapping[str, Any]) -> str:
    driver = held.get("driver", {})
    return f"process {driver.get('pid', '?')} on {driver.get('host', '?')}"


def _name(number: int) -> str:
    return f"{FOLDER}/{number:06d}.json"


def _last(storage: Storage) -> tuple[int, dict[str, Any]]:
    """The highest number, and what its holder said; 0 and nothing where nobody ever held one."""
    names = storage.names(FOLDER)
    if not names:
        return 0, {}
    number, held = int(names[-1].partition(".")[0]), {}
    for _ in range(10):
        # A local file is there a moment before its content; without any its writer was killed.
        with suppress(ValueError):
            held = json.loads(storage.read(f"{FOLDER}/{names[-1]}"))
            break
        time.sleep(0.1)
    return number, held


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
