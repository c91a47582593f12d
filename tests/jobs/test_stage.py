"""A stage tries again what fails, keeps why, and ends a job only as its spec says."""

import re
import shutil

import pyarrow as pa
import pytest
import typer

from whylens.cluster.workers import UnitFailed
from whylens.errors import UnfinishedError, UsageError
from whylens.jobs.cli.running import INCOMPLETE, _tell_undone
from whylens.jobs.spec import JobSpec, make_spec
from whylens.jobs.stage import FAILURES, Batch, BatchSize, do_missing, in_batches, memory_file
from whylens.runs import Run
from whylens.settings import Settings


def begun(folder, **spec):
    return Run.start(str(folder), "toy", spec, lambda _: {})


class Doing:
    """Does units whose tasks are said to fail so many times; notes what it was given."""

    def __init__(self, run, **failing):
        self.run, self.failing, self.given = run, failing, []

    def __call__(self, units):
        self.given.append([unit.name for unit in units])
        for unit in units:
            bad = [task for task in unit.tasks if self.failing.get(task, 0) > 0]
            for task in bad:
                self.failing[task] -= 1
            if bad:
                yield unit, UnitFailed(f"ValueError: {bad[0]} is odd", "host-7", "Traceback ...")
                continue
            rows = pa.Table.from_pylist([{"task": task} for task in unit.tasks])
            self.run.table("toys").write(unit.name, rows)
            yield unit, len(rows)


def tasks(run):
    return sorted(row["task"] for row in run.table("toys").read().to_pylist())


class AutoBatches(Settings):
    batch: BatchSize = "auto"


UNITS = [Batch("u-0", ("a", "b")), Batch("u-1", ("c",)), Batch("u-2", ("d", "e", "f"))]


def test_a_unit_that_fails_now_and_then_is_done_in_the_end(tmp_path):
    run = begun(tmp_path, retries=2)
    do = Doing(run, b=1, c=2)
    do_missing(run, "toys", UNITS, do)
    assert do.given == [["u-0", "u-1", "u-2"], ["u-0", "u-1"], ["u-1"]]
    assert tasks(run) == ["a", "b", "c", "d", "e", "f"]
    noted = run.table(FAILURES).read().to_pylist()
    assert [(row["unit"], row["attempt"], row["reason"]) for row in noted] == [
        ("u-0", 1, "ValueError: b is odd"),
        ("u-1", 1, "ValueError: c is odd"),
        ("u-1", 2, "ValueError: c is odd"),
    ]
    assert {(row["stage"], row["host"], row["traceback"]) for row in noted} == {
        ("toys", "host-7", "Traceback ...")
    }
    assert "undone" not in run.record()


def test_one_bad_task_loses_itself_alone_and_is_told(tmp_path):
    run = begun(tmp_path, retries=1)
    do = Doing(run, e=99)
    with pytest.raises(UnfinishedError, match=r"toys: 1 of 5 units failed, 1 of them with: .* e "):
        do_missing(run, "toys", UNITS, do)
    assert do.given[1:] == [["u-2"], ["u-2-000", "u-2-001", "u-2-002"]]
    assert tasks(run) == ["a", "b", "c", "d", "f"]
    assert run.record()["undone"] == {
        "toys": {"units": 1, "of": 5, "reason": "ValueError: e is odd"}
    }
    # Started again, the one piece is tried, and nothing is done twice.
    again = Doing(run)
    do_missing(run, "toys", UNITS, again)
    assert again.given == [["u-2-001"]]
    assert tasks(run) == ["a", "b", "c", "d", "e", "f"]
    assert run.record()["undone"] == {}
    again = Doing(run)
    do_missing(run, "toys", UNITS, again)
    assert again.given == []


def test_what_is_tolerated_makes_a_run_incomplete_with_its_own_exit_code(tmp_path, capsys):
    run = begun(tmp_path, tolerate=0.2)
    with run.working():
        do_missing(run, "toys", UNITS, Doing(run, e=99))
    assert run.record()["state"] == "incomplete"
    with pytest.raises(typer.Exit) as end:
        _tell_undone(run)
    assert end.value.exit_code == INCOMPLETE == 3
    said = capsys.readouterr().err
    assert re.search(r"toys lacks 1 of 5 units, most of them for: ValueError: e is odd", said)
    with run.working():
        do_missing(run, "toys", UNITS, Doing(run))
    assert run.record()["state"] == "finished"
    _tell_undone(run)


def test_a_job_whose_units_all_fail_has_failed(tmp_path):
    run = begun(tmp_path, retries=2)
    do = Doing(run, **dict.fromkeys("abcdef", 99))
    with pytest.raises(UnfinishedError, match="6 of 6 units failed"), run.working():
        do_missing(run, "toys", UNITS, do)
    assert run.record()["state"] == "failed"
    assert "6 of 6 units failed" in run.record()["error"]
    assert len(run.table(FAILURES).units()) == 3 * 3 + 5


def test_a_run_that_was_moved_goes_on_with_another_placement(tmp_path):
    def begin(folder, **settings):
        spec = JobSpec(out=str(folder), **settings)
        return Run.start(spec.out, "toy", spec.model_dump(mode="json"), JobSpec.deciding)

    run = begin(tmp_path / "here", placement={"workers": [1, 1]}, tolerate=1.0)
    do_missing(run, "toys", UNITS, Doing(run, c=99))
    shutil.move(tmp_path / "here", tmp_path / "there")
    moved = begin(tmp_path / "there", placement={"workers": [2, 8], "num_cpus": 4}, retries=0)
    do = Doing(moved)
    do_missing(moved, "toys", UNITS, do)
    assert do.given == [["u-1"]]
    assert tasks(moved) == ["a", "b", "c", "d", "e", "f"]
    assert moved.record()["spec"]["out"] == f"{tmp_path}/there"
    assert not (tmp_path / "here").exists()


def test_what_workers_held_at_once_is_kept_in_run_json(tmp_path):
    run = begun(tmp_path)
    do = Doing(run)

    def noting(units):
        run.storage.write(memory_file("toys"), b'{"problems": 3, "of": 8}')
        yield from do(units)

    do_missing(run, "toys", UNITS, noting)
    assert run.record()["memory"] == {"toys": {"problems": 3, "of": 8}}


def test_units_are_of_one_size_on_every_machine_where_memory_decides():
    spec = AutoBatches()
    units = in_batches(list(range(20)), spec.batch, spec)
    assert [len(unit.tasks) for unit in units] == [16, 4]
    with pytest.raises(UsageError, match=r"batch.*greater than or equal to 1"):
        make_spec(AutoBatches, {"batch": 0})
