"""A run: its record, and starting it again."""

import errno
import json
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
import torch

from whylens.errors import UsageError, WhylensError
from whylens.runs import Run
from whylens.runs.storage import ASIDE

SPEC: dict[str, Any] = {
    "images": "photos", "seed": 11, "sizes": (1, 2), "optimise": {"steps": 20, "rate": 0.1},
}  # fmt: skip


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "memory":
        yield "memory://run-test/run"
        fsspec.filesystem("memory").rm("/run-test", recursive=True)
    else:
        yield f"{tmp_path}/run"


def written(folder: str) -> dict[str, Any]:
    """run.json as any other program reads it."""
    system, root = fsspec.core.url_to_fs(folder)
    record: dict[str, Any] = json.loads(system.cat_file(f"{root}/run.json"))
    return record


def test_a_new_run_records_what_it_was_asked_and_with_which_versions(folder: str) -> None:
    Run.start(folder, "embed", SPEC)
    record = written(folder)
    assert record["format"] == 1
    assert record["job"] == "embed"
    assert record["spec"] == {**SPEC, "sizes": [1, 2]}
    assert record["spec"]["seed"] == 11
    assert record["state"] == "running"
    assert record["timings"] == {}
    assert record["warnings"] == []
    assert record["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert record["versions"]["whylens"] == metadata.version("whylens")
    created = datetime.strptime(record["created"], "%Y-%m-%dT%H:%M:%S%z")
    assert timedelta(0) <= datetime.now(UTC) - created < timedelta(minutes=5)


def test_the_same_run_goes_on_and_keeps_what_it_had(folder: str) -> None:
    run = Run.start(folder, "embed", SPEC)
    run.table("images").write("0", pa.table({"k": [1]}))
    with run.stage("embed"):
        pass
    run.warn("two images were rejected")
    run.finish()
    before = written(folder)
    assert before["state"] == "finished"
    again = Run.start(folder, "embed", dict(reversed(SPEC.items())))
    assert again.table("images").units() == ["0"]
    assert written(folder) == {**before, "state": "running"}


def test_going_on_records_the_versions_of_now(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Run.start(folder, "embed", SPEC)
    monkeypatch.setattr("whylens.runs.run._versions", lambda: {"torch": "99"})
    Run.start(folder, "embed", SPEC)
    assert written(folder)["versions"] == {"torch": "99"}


def test_going_on_sweeps_what_a_killed_writer_left(tmp_path: Path) -> None:
    run = Run.start(str(tmp_path), "embed", SPEC)
    run.table("images").write("0", pa.table({"k": [1]}))
    left = [tmp_path / f"{ASIDE}1-run.json", tmp_path / "tables/images" / f"{ASIDE}2-1.parquet"]
    for path in left:
        path.write_bytes(b"half")
    again = Run.start(str(tmp_path), "embed", SPEC)
    assert not any(path.exists() for path in left)
    assert again.table("images").units() == ["0"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": "others"}, "images is 'photos' there and 'others' here"),
        ({"seed": 12}, "seed is 11 there and 12 here"),
        ({"sizes": (1, 3)}, r"sizes is \[1, 2\] there and \[1, 3\] here"),
        ({"optimise": {"steps": 20, "rate": 0.2}}, r"optimise\.rate is 0\.1 there and 0\.2 here"),
        ({"optimise": {"steps": 20}}, r"optimise\.rate is 0\.1 there and not given here"),
        ({"optimise": None}, r"optimise is \{'steps': 20, 'rate': 0\.1\} there and None here"),
        ({"more": None}, "more is not given there and None here"),
        # Of several differences, the first.
        ({"seed": 1, "images": "x"}, "images is 'photos' there and 'x' here"),
    ],
)
def test_another_spec_is_refused_and_the_first_difference_is_named(
    change: dict[str, Any], said: str, folder: str
) -> None:
    Run.start(folder, "embed", SPEC).finish()
    before = written(folder)
    with pytest.raises(UsageError, match=rf"{folder} holds .*another spec: {said}\. Name another"):
        Run.start(folder, "embed", {**SPEC, **change})
    assert written(folder) == before


def test_a_run_whose_units_have_other_names_is_read_and_not_gone_on_with(folder: str) -> None:
    run = Run.start(folder, "embed", SPEC)
    run.finish()
    record = run.record()
    del record["units"]
    run.storage.write("run.json", json.dumps(record).encode())
    with pytest.raises(UsageError, match=r"another version of whylens began.*--out"):
        Run.start(folder, "embed", SPEC)
    assert Run.open(folder).record()["state"] == "finished"


def test_another_job_is_refused(folder: str) -> None:
    Run.start(folder, "embed", SPEC)
    before = written(folder)
    with pytest.raises(UsageError, match=r"a run of the job 'embed', not 'components': .*--out"):
        Run.start(folder, "components", SPEC)
    assert written(folder) == before


def test_a_run_is_opened_to_read_from_and_is_left_as_it_is(folder: str) -> None:
    Run.start(folder, "embed", SPEC).finish()
    before = written(folder)
    assert Run.open(folder).record() == before
    assert Run.open(f"{folder}/").record() == before
    assert written(folder) == before


def test_a_folder_without_a_run_is_named(folder: str, tmp_path: Path) -> None:
    fsspec.filesystem("memory").makedirs("/run-test", exist_ok=True)
    with pytest.raises(UsageError, match=f"{folder} is not a run folder: it has no run.json"):
        Run.open(folder)
    with pytest.raises(UsageError, match=f"{folder} is not a run folder: it has no run.json"):
        Run(folder).record()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{torn", "run.json is not JSON"),
        ("", "run.json is not JSON"),
        ("[]", "run.json is not a run's record"),
        ('{"name": "something else"}', "run.json is not a run's record"),
        ('{"format": 2, "job": "embed", "spec": {}}', "not a run's record of the format 1"),
    ],
)
def test_a_run_json_of_something_else_is_refused_and_kept(
    content: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UsageError, match=said):
        Run.start(str(tmp_path), "embed", {})
    with pytest.raises(UsageError, match=said):
        Run.open(str(tmp_path)).record()
    assert (tmp_path / "run.json").read_text() == content


def test_a_folder_that_can_not_be_written_to_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match=f"{tmp_path}/file/run can't be written to"):
        Run.start(f"{tmp_path}/file/run", "embed", SPEC)


def test_a_run_that_became_read_only_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Run.start(str(tmp_path), "embed", SPEC).finish()

    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(UsageError, match=r"can't be written to \(Permission denied\)"):
        Run.start(str(tmp_path), "embed", SPEC)
    assert written(str(tmp_path))["state"] == "finished"


def test_a_warning_is_logged_and_kept_once(folder: str, caplog: pytest.LogCaptureFixture) -> None:
    run = Run.start(folder, "embed", SPEC)
    with caplog.at_level(logging.WARNING):
        for message in ("three images rejected", "unit 4 failed", "three images rejected"):
            run.warn(message)
    assert written(folder)["warnings"] == ["three images rejected", "unit 4 failed"]
    assert {r.levelname for r in caplog.records} == {"WARNING"}
    assert {r.getMessage() for r in caplog.records} == {"three images rejected", "unit 4 failed"}
    assert Run.start(folder, "embed", SPEC).record()["warnings"] == written(folder)["warnings"]


def test_a_stage_is_timed_and_times_add_up_over_restarts(folder: str) -> None:
    run = Run.start(folder, "embed", SPEC)
    with run.stage("embed"):
        time.sleep(0.12)
    with run.stage("rank"):
        pass
    timings = written(folder)["timings"]
    assert 0.12 <= timings["embed"] < 5
    assert timings["rank"] < timings["embed"]
    again = Run.start(folder, "embed", SPEC)
    with again.stage("embed"):
        time.sleep(0.1)
    assert written(folder)["timings"]["embed"] >= round(timings["embed"] + 0.1, 2)
    assert written(folder)["state"] == "running"


def test_work_that_fails_marks_the_run_which_can_then_go_on(folder: str) -> None:
    run = Run.start(folder, "embed", SPEC)
    with pytest.raises(ZeroDivisionError), run.working(), run.stage("embed"):  # noqa: PT012
        run.table("images").write("0", pa.table({"k": [1]}))
        raise ZeroDivisionError("by zero")
    assert written(folder)["state"] == "failed"
    assert written(folder)["error"] == "ZeroDivisionError: by zero"
    assert written(folder)["timings"] == {}
    again = Run.start(folder, "embed", SPEC)
    assert written(folder)["state"] == "running"
    assert again.table("images").done("0")
    with again.working():
        assert written(folder)["error"] is None
    assert written(folder)["state"] == "finished"


def test_an_error_between_stages_is_a_failure_and_an_interruption_is_none(folder: str) -> None:
    run = Run.start(folder, "embed", SPEC)
    with pytest.raises(ZeroDivisionError), run.working():
        raise ZeroDivisionError
    assert written(folder)["state"] == "failed"
    with pytest.raises(KeyboardInterrupt), run.working(), run.stage("embed"):
        raise KeyboardInterrupt
    assert written(folder)["state"] == "stopped"


def test_sigterm_stops_a_run(folder: str) -> None:
    run = Run.start(folder, "embed", SPEC)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end, run.working():  # noqa: PT012
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert end.value.code == 143
    assert written(folder)["state"] == "stopped"
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_run_with_undone_units_is_incomplete_until_they_are_done(folder: str) -> None:
    run = Run.start(folder, "embed", SPEC)
    with run.working():
        run.note_undone("images", 2, 40, "OSError: no such host")
    assert written(folder)["state"] == "incomplete"
    assert written(folder)["undone"] == {
        "images": {"units": 2, "of": 40, "reason": "OSError: no such host"}
    }
    with run.working():
        run.note_undone("images", 0, 40)
    assert written(folder)["state"] == "finished"


def test_a_second_driver_is_refused_while_the_first_one_lives(folder: str) -> None:
    run = Run.start(folder, "embed", SPEC)
    with run.working():
        while "heartbeat" not in written(folder):
            time.sleep(0.01)
        Run.start(folder, "embed", SPEC)  # its own process may
        for driver, alive in [
            ({"host": "elsewhere", "pid": 7}, True),
            ({"host": socket.gethostname(), "pid": os.getppid()}, True),
            ({"host": socket.gethostname(), "pid": 2**22 + 1}, False),
        ]:
            run._update(driver=driver)
            if alive:
                told = f"process {driver['pid']} on {driver['host']} works on"
                with pytest.raises(UsageError, match=told):
                    Run.start(folder, "embed", SPEC)
            else:
                Run.start(folder, "embed", SPEC)
        run._update(driver={"host": "elsewhere", "pid": 7}, heartbeat=time.time() - 61)
        Run.start(folder, "embed", SPEC)


def full(_: int) -> None:
    """What flushing a file to a full disk does."""
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_stage_that_fails_on_a_full_disk_says_so_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.start(str(tmp_path), "embed", SPEC)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(WhylensError, match="is full: make room"), run.working():
            run.table("images").write("0", pa.table({"k": [1]}))
    assert Run.start(str(tmp_path), "embed", SPEC).table("images").units() == []


def test_a_mistake_in_a_stage_is_not_hidden_by_a_record_that_can_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run.start(str(tmp_path), "embed", SPEC)
    with pytest.raises(ZeroDivisionError), run.working():  # noqa: PT012
        monkeypatch.setattr(os, "fsync", full)
        raise ZeroDivisionError
    assert "could not be marked as ended" in caplog.text


def test_a_run_travels_to_workers_by_its_folder_alone(folder: str) -> None:
    run = Run.start(folder, "embed", SPEC)
    there: Run = pickle.loads(pickle.dumps(run))
    assert len(pickle.dumps(run)) < 1000
    there.warn("from a worker")
    assert run.record()["warnings"] == ["from a worker"]
    assert there.folder == folder


def test_a_worker_in_another_directory_writes_to_the_same_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = Run.start("out/run", "embed", SPEC)
    (tmp_path / "elsewhere").mkdir()
    code = "import pickle, sys; pickle.load(sys.stdin.buffer).warn('from afar')"
    subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(run), cwd=tmp_path / "elsewhere", check=True,
    )  # fmt: skip
    assert run.record()["warnings"] == ["from afar"]
    assert run.folder == "out/run"
