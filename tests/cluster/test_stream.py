"""A stream prepares on cores and finishes in workers, whatever fails; as the pool, it says why."""

import os
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from whylens.cluster.placement import Placement
from whylens.cluster.stream import Stream
from whylens.cluster.workers import UnitFailed
from whylens.errors import UsageError, WhylensError

ONE = Placement(workers=(1, 1), num_cpus=0.5)

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Unit:
    name: str
    deed: str = ""


def prepare(unit: Unit, folder: Path) -> pa.Table:
    (folder / f"prepared-{unit.name}").write_text(str(os.getpid()))
    if unit.deed == "unreadable":
        raise ValueError(f"{unit.name} can't be read")
    if unit.deed == "no folder":
        raise WhylensError("no folder")
    return pa.table({"name": [unit.name], "deed": [unit.deed]})


class Worker:
    """Does what the units say, and notes every try in a folder."""

    def __init__(self, folder: Path, error: Exception | None = None) -> None:
        if error is not None:
            raise error
        self.folder = folder

    def __call__(self, prepared: pa.Table) -> str:
        (row,) = prepared.to_pylist()
        name, deed = row["name"], row["deed"]
        tries = len(list(self.folder.glob(f"{name}-*")))
        (self.folder / f"{name}-{tries}").write_text(str(os.getpid()))
        if deed == "die" or (deed == "die once" and tries == 0):
            os._exit(1)
        if deed == "raise":
            raise ValueError(f"{name} has no square root")
        if deed == "full":
            raise WhylensError("the disk is full")
        time.sleep(0.05)
        return str(name).upper()


def streamed(folder: Path, *units: Unit, error: Exception | None = None) -> dict[str, object]:
    stream = Stream[Unit](partial(prepare, folder=folder), Worker, (folder, error), ONE)
    return {unit.name: result for unit, result in stream.map(units)}


def test_every_unit_is_prepared_and_done_once_and_failures_are_theirs_alone(ray, tmp_path):
    good = [Unit(f"u{i}") for i in range(8)]
    found = streamed(tmp_path, *good, Unit("a", "raise"), Unit("b", "unreadable"))
    assert found == {
        **{unit.name: unit.name.upper() for unit in good},
        "a": UnitFailed("ValueError: a has no square root"),
        "b": UnitFailed("ValueError: b can't be read"),
    }
    workers, preparers = set(), set()
    for unit in good:
        (tried,) = tmp_path.glob(f"{unit.name}-*")
        workers.add(tried.read_text())
        preparers.add((tmp_path / f"prepared-{unit.name}").read_text())
    assert len(workers) == 1
    assert not workers & preparers


def test_a_unit_that_kills_its_workers_is_given_up_and_one_that_did_once_is_done(ray, tmp_path):
    found = streamed(tmp_path, Unit("a"), Unit("b", "die"), Unit("c", "die once"), Unit("d"))
    assert (found["a"], found["c"], found["d"]) == ("A", "C", "D")
    assert isinstance(found["b"], UnitFailed)
    assert "2 workers died" in found["b"].reason


@pytest.mark.parametrize(("deed", "message"), [("full", "the disk is full"),
                                               ("no folder", "^no folder$")])  # fmt: skip
def test_what_the_user_has_to_mend_stops_the_stream(ray, tmp_path, deed, message):
    with pytest.raises(WhylensError, match=message):
        streamed(tmp_path, Unit("a", deed), *[Unit(f"u{i}") for i in range(60)])
    assert len(list(tmp_path.glob("u*"))) < 60


def test_workers_that_cannot_load_are_an_error(ray, tmp_path):
    with pytest.raises(UsageError, match=r"^no classifier 'x'$"):
        streamed(tmp_path, Unit("a"), error=UsageError("no classifier 'x'"))


def test_no_units_start_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("whylens.cluster.stream.start", lambda: pytest.fail("Ray was started"))
    assert streamed(tmp_path) == {}
