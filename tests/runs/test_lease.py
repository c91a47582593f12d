"""One process drives a run: who comes second is told, and who was taken over stops."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from whylens.errors import UsageError
from whylens.runs import Run, Storage
from whylens.runs.lease import DEAD_AFTER, Lease, LeaseLostError, refuse_second

DRIVER = """
import sys, time
from whylens.runs import Run
with Run.start(sys.argv[1], "embed", {}).working():
    print("working", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def held_by(storage: Storage, number: int, **said: object) -> None:
    """The lease of that number, as another machine's process would hold it."""
    theirs = {"driver": {"host": "elsewhere", "pid": 7}, "heartbeat": time.time(), **said}
    storage.write(f"leases/{number:06d}.json", json.dumps(theirs).encode())


def test_a_second_driver_is_told_of_the_first_until_that_is_dead(tmp_path: Path) -> None:
    folder = str(tmp_path / "run")
    first = subprocess.Popen(
        [sys.executable, "-c", DRIVER, folder], stdout=subprocess.PIPE, text=True
    )
    assert first.stdout is not None
    assert first.stdout.readline() == "working\n"
    told = f"process {first.pid} on {socket.gethostname()} works on {folder}: wait for it or stop"

    def written() -> dict[str, Any]:
        return {**Run(folder).record(), "heartbeat": None}  # the first's goes on

    before = written()
    with pytest.raises(UsageError, match=told):
        Run.start(folder, "embed", {})
    with pytest.raises(UsageError, match=told), Run(folder).working():
        pytest.fail("it works beside the first")
    assert written() == before
    first.send_signal(signal.SIGKILL)
    first.wait()
    with Run.start(folder, "embed", {}).working():
        assert Run(folder).record()["driver"]["pid"] == os.getpid()
    # Ended as it should, it leaves the run to anybody.
    held = json.loads((tmp_path / "run/leases/000002.json").read_text())
    assert held["released"]


def test_of_many_drivers_that_find_an_old_lease_one_takes_it(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_by(storage, 1, heartbeat=time.time() - DEAD_AFTER - 1)
    # Threads that pass for processes of as many hosts.
    hosts = threading.local()
    monkeypatch.setattr("whylens.runs.lease.me", lambda: {"host": hosts.name, "pid": 1})

    def take(number: int) -> bool:
        hosts.name = f"host-{number}"
        try:
            Lease(storage)
        except UsageError as error:
            assert "process 1 on host-" in str(error)  # noqa: PT017
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(take, range(8)))
    assert sum(taken) == 1
    held = json.loads(storage.read("leases/000002.json"))
    assert held["driver"]["host"] == f"host-{taken.index(True)}"
    assert storage.names("leases") == ["000001.json", "000002.json"]


@pytest.mark.parametrize(
    ("said", "free"),
    [
        ({}, False),
        ({"heartbeat": time.time() - DEAD_AFTER - 1}, True),
        ({"released": True}, True),
        ({"driver": {"host": socket.gethostname(), "pid": 2**22 + 1}}, True),
        ({"driver": {"host": socket.gethostname(), "pid": os.getppid()}}, False),
        # A container that started again has its old name and number.
        ({"driver": {"host": socket.gethostname(), "pid": os.getpid()}}, True),
    ],
)
def test_a_lease_counts_while_its_holder_lives(said: dict, free: bool, storage: Storage) -> None:
    held_by(storage, 3, **said)
    if free:
        refuse_second(storage)
        Lease(storage)
        assert storage.names("leases")[-1] == "000004.json"
    else:
        with pytest.raises(UsageError, match="works on"):
            Lease(storage)
        assert storage.names("leases") == ["000003.json"]


def test_a_heartbeat_keeps_a_lease(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    lease, now = Lease(storage), time.time()
    monkeypatch.setattr(time, "time", lambda: now + 40)
    lease.renew()
    monkeypatch.setattr(time, "time", lambda: now + 80)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    with pytest.raises(UsageError, match="works on"):
        Lease(storage)


def test_a_driver_that_was_taken_over_stops_and_leaves_the_record_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whylens.runs.run.BEAT", 0.05)
    run = Run.start(str(tmp_path), "embed", {})
    with pytest.raises(LeaseLostError, match="process 7 on elsewhere has taken over"):  # noqa: PT012, SIM117
        with run.working():
            held_by(run.storage, 2)
            time.sleep(20)  # it is woken
            pytest.fail("it goes on")
    time.sleep(0.2)
    before = run.storage.read("run.json")
    assert json.loads(before)["state"] == "running"
    with pytest.raises(LeaseLostError):
        run.warn("too late")
    assert run.storage.read("run.json") == before
    assert json.loads(run.storage.read("leases/000002.json"))["driver"]["host"] == "elsewhere"


def test_a_lease_whose_writer_was_killed_at_once_holds_nothing(storage: Storage) -> None:
    storage.write("leases/000001.json", b"")
    Lease(storage)
    assert storage.names("leases") == ["000001.json", "000002.json"]
