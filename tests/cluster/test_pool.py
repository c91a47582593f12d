"""A pool works through its units whatever dies, and says clearly what went wrong."""

import os
import signal
import time
from pathlib import Path

import pyarrow as pa
import pytest

from whylens.cluster.placement import Placement
from whylens.cluster.pool import MAX_DEATHS, WorkerPool
from whylens.cluster.workers import UnitFailed
from whylens.errors import UsageError, WhylensError
from whylens.jobs.stage import Batch, work_through
from whylens.runs import Run

# Half a core each: a pool of two workers runs on one core.
TWO = Placement(workers=(1, 2), num_cpus=0.5)
ONE = Placement(workers=(1, 1), num_cpus=0.5)

pytestmark = pytest.mark.slow


class Worker:
    """Does what its units say, and notes every try in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, unit):
        name, deed = unit
        tries = len(list(self.folder.glob(f"{name}-*")))
        (self.folder / f"{name}-{tries}").write_text(str(os.getpid()))
        if deed == "die" or (deed == "die once" and tries == 0):
            os._exit(1)
        if deed == "raise":
            raise ValueError(f"{name} has no square root")
        if deed == "full":
            raise WhylensError("the disk is full")
        if deed == "wait":
            while len(list(self.folder.iterdir())) < 4:
                time.sleep(0.02)
        return name.upper()


def tries(folder: Path, name: str) -> list[int]:
    """The processes that tried a unit, one by one."""
    return [int(path.read_text()) for path in sorted(folder.glob(f"{name}-*"))]


def units(**deeds: str) -> list[tuple[str, str]]:
    return list(deeds.items())


def worked(folder: Path, todo, placement=TWO) -> dict:
    return {u[0]: result for u, result in WorkerPool(Worker, (folder,), placement).map(todo)}


def test_every_unit_is_done_once(ray, tmp_path):
    todo = [(f"u{i}", "") for i in range(12)]
    assert worked(tmp_path, todo) == {f"u{i}": f"U{i}" for i in range(12)}
    assert all(len(tries(tmp_path, name)) == 1 for name, _ in todo)


def test_no_units_start_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("whylens.cluster.pool.start", lambda: pytest.fail("Ray was started"))
    assert worked(tmp_path, []) == {}


def test_a_result_comes_when_it_is_there(ray, tmp_path):
    # One worker holds the first unit until the other has begun the last.
    pool = WorkerPool(Worker, (tmp_path,), Placement(workers=(2, 2), num_cpus=0.5))
    order = [unit[0] for unit, _ in pool.map(units(first="wait", a="", b="", c=""))]
    assert sorted(order) == ["a", "b", "c", "first"]
    assert order.index("first") >= 2


def test_a_unit_whose_worker_died_is_done_by_another(ray, tmp_path):
    results = worked(tmp_path, units(a="", b="die once", c=""), ONE)
    assert results == {"a": "A", "b": "B", "c": "C"}
    first, second = tries(tmp_path, "b")
    assert first != second
    assert tries(tmp_path, "c") == [second]


def test_a_unit_that_kills_its_workers_is_given_up(ray, tmp_path):
    results = worked(tmp_path, units(a="", b="die", c=""), ONE)
    assert isinstance(results["b"], UnitFailed)
    assert "2 workers died" in results["b"].reason
    assert len(tries(tmp_path, "b")) == MAX_DEATHS == 2
    assert (results["a"], results["c"]) == ("A", "C")


class Killed(Worker):
    """Is killed at its first three tries of every unit, and writes its part at the fourth."""

    def __init__(self, run, folder: Path) -> None:
        super().__init__(folder)
        self.run = run

    def __call__(self, unit):
        tried = len(tries(self.folder, unit.name))
        super().__call__((unit.name, ""))
        if tried < 3:
            os.kill(os.getpid(), signal.SIGKILL)
        self.run.table("toys").write(unit.name, pa.table({"task": list(unit.tasks)}))


def test_a_job_whose_every_worker_is_killed_three_times_ends_whole(ray, tmp_path):
    run = Run.start(f"{tmp_path}/run", "toy", {"retries": 2}, lambda _: {})
    (tmp_path / "tries").mkdir()
    with run.working():
        work_through(run, "toys", [Batch("u", (1, 2))], Killed, (run, tmp_path / "tries"), ONE)
    assert run.record()["state"] == "finished"
    assert run.table("toys").read()["task"].to_pylist() == [1, 2]
    assert len(set(tries(tmp_path / "tries", "u"))) == 4
    (failure,) = run.table("failures").read().to_pylist()
    assert failure["reason"].startswith("2 workers died of it")


def test_an_exception_fails_its_unit_only(ray, tmp_path):
    results = worked(tmp_path, units(a="", b="raise", c=""), ONE)
    assert results == {"a": "A", "b": UnitFailed("ValueError: b has no square root"), "c": "C"}
    # The worker lives on: it did all three.
    assert len({*tries(tmp_path, "a"), *tries(tmp_path, "b"), *tries(tmp_path, "c")}) == 1


def test_what_the_user_has_to_mend_stops_the_pool(ray, tmp_path):
    with pytest.raises(WhylensError, match="the disk is full"):
        worked(tmp_path, units(a="full", b="", c=""), ONE)
    assert tries(tmp_path, "c") == []


class Unloadable:
    def __init__(self, error) -> None:
        if error is None:
            os._exit(1)
        raise error


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (UsageError("no classifier 'x'"), UsageError, "^no classifier 'x'$"),
        (ValueError("bad weights"), WhylensError, "could not start: ValueError: bad weights"),
        (None, WhylensError, "workers die while they load"),
    ],
)
def test_workers_that_cannot_load_are_an_error(ray, error, kind, message):
    with pytest.raises(WhylensError, match=message) as raised:
        list(WorkerPool(Unloadable, (error,), ONE).map([1, 2, 3]))
    assert type(raised.value) is kind


def test_more_workers_than_room_are_refused(ray, tmp_path):
    cores = int(ray.cluster_resources()["CPU"])
    with pytest.raises(UsageError, match=f"room for {cores} workers of 1 CPUs.* {cores + 5} are"):
        worked(tmp_path, units(a=""), Placement(workers=(cores + 5, cores + 5)))
    with pytest.raises(UsageError, match="room for 0 workers of 1 CPUs and 1 GPUs, but 1 are"):
        worked(tmp_path, units(a=""), Placement(num_gpus=1))


class Process:
    """Tells its process, and is slow enough for two workers to share the units."""

    def __call__(self, unit):
        time.sleep(0.2)
        return os.getpid()


def test_stages_of_a_session_share_its_workers(ray):
    def stage(placement=TWO):
        return {pid for _, pid in WorkerPool(Process, (), placement).map(range(8))}

    # A stage may be over before its second worker is up, the longer the busier the machine is.
    first, until = stage(), time.monotonic() + 60
    while len(first) < 2 and time.monotonic() < until:
        first |= stage()
    assert len(first) == 2
    assert stage() <= first
    # Workers of another size are others, and the idle ones make room for them.
    wide = stage(Placement(workers=(2, 2), num_cpus=1))
    assert wide
    assert not wide & first
    assert {pid for pid in first if Path(f"/proc/{pid}").exists()} == set()


def test_a_session_that_was_there_stays(ray):
    from whylens.cluster.session import session

    with session() as inner:
        assert inner is ray
    assert ray.is_initialized()
