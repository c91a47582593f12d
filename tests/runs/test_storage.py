"""A file in a run folder is whole or not there, whatever happens to who writes it."""

import errno
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whylens.errors import UsageError, WhylensError
from whylens.runs import Storage
from whylens.runs.storage import ASIDE


def every_file(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.fixture(params=["local", "file", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    """An empty folder on each kind of filesystem."""
    if request.param == "memory":
        system = fsspec.filesystem("memory")
        system.makedirs("/storage-test", exist_ok=True)
        yield Storage("memory://storage-test/run/")
        system.rm("/storage-test", recursive=True)
    else:
        yield Storage(f"file://{tmp_path}/run" if request.param == "file" else f"{tmp_path}/run")


def test_what_is_written_is_read_back(storage: Storage) -> None:
    assert not storage.exists("tables/a/0.bin")
    storage.write("tables/a/0.bin", b"\0one")
    storage.write("tables/a/0.bin", b"two")
    storage.write("tables/a/00.bin", b"")
    storage.write("top.json", b"{}")
    assert storage.exists("tables/a/0.bin")
    assert storage.read("tables/a/0.bin") == b"two"
    assert storage.read("tables/a/00.bin") == b""
    assert storage.names("tables/a") == ["0.bin", "00.bin"]
    assert storage.path("top.json") == f"{storage.url}/top.json"


def test_a_folder_that_is_not_there_has_no_files(storage: Storage) -> None:
    storage.write("x", b"")
    assert storage.names("tables/none") == []
    assert not storage.exists("tables/none")
    with pytest.raises(FileNotFoundError):
        storage.read("y")


def test_another_process_sees_new_files_at_once(storage: Storage) -> None:
    there: Storage = pickle.loads(pickle.dumps(storage))
    assert there.url == storage.url
    storage.write("tables/a/0", b"0")
    assert there.names("tables/a") == ["0"]
    storage.write("tables/a/1", b"1")
    assert there.names("tables/a") == ["0", "1"]
    assert there.read("tables/a/1") == b"1"


def test_only_this_machines_own_disk_is_local(storage: Storage) -> None:
    assert storage.local == (not storage.url.startswith("memory:"))


@given(st.binary(max_size=4000))
@settings(max_examples=20, deadline=None)
def test_any_bytes_come_back(content: bytes) -> None:
    storage = Storage("memory://storage-any")
    storage.write("x", content)
    assert storage.read("x") == content


def test_nothing_is_left_beside_a_written_file(tmp_path: Path) -> None:
    Storage(str(tmp_path)).write("a/b", b"x")
    assert every_file(tmp_path) == ["a/b"]


def test_a_file_is_on_the_disk_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Any] = []
    fsync, replace = os.fsync, os.replace

    def flushed(number: int) -> None:
        events.append(("flushed", os.fstat(number).st_size, (tmp_path / "a").exists()))
        fsync(number)

    def renamed(source: str, target: str) -> None:
        events.append(("renamed", Path(source).parent == Path(target).parent))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", renamed)
    Storage(str(tmp_path)).write("a", b"12345")
    assert events == [("flushed", 5, False), ("renamed", True)]


KILLED = """
import os, signal, sys
from whylens.runs import Storage
storage = Storage(sys.argv[1])
storage.write("t/0", b"old")
storage.write("t/1", b"whole")
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
storage.write(sys.argv[2], b"new")
"""


@pytest.mark.parametrize(("name", "content"), [("t/0", b"old"), ("t/2", None)])
def test_a_writer_killed_before_the_rename_leaves_the_old_file_or_none(
    name: str, content: bytes | None, tmp_path: Path
) -> None:
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), name], check=False)
    assert ended.returncode == -signal.SIGKILL
    left = [f for f in every_file(tmp_path) if ASIDE in f]
    assert len(left) == 1
    storage = Storage(str(tmp_path))
    assert storage.names("t") == ["0", "1"]
    assert storage.exists(name) == (content is not None)
    if content is not None:
        assert storage.read(name) == content
    storage.sweep()
    assert every_file(tmp_path) == ["t/0", "t/1"]
    storage.write(name, b"again")
    assert storage.read(name) == b"again"


def test_sweeping_removes_nothing_else(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write("t/0", b"x")
    (tmp_path / ".hidden").write_text("mine")
    (tmp_path / "t" / f"{ASIDE}abc-1").write_text("left")
    storage.sweep()
    assert every_file(tmp_path) == [".hidden", "t/0"]
    memory = Storage("memory://storage-sweep")
    memory.write("t/0", b"x")
    memory.sweep()
    assert memory.names("t") == ["0"]


def test_readers_see_the_old_or_the_new_file_and_nothing_between(tmp_path: Path) -> None:
    storage, stop = Storage(str(tmp_path)), threading.Event()
    versions = [bytes([k]) * 50_000 for k in range(4)]
    storage.write("x", versions[0])
    seen = set()

    def write() -> None:
        for k in range(60):
            storage.write("x", versions[k % 4])
        stop.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not stop.is_set():
        seen.add(storage.read("x"))
    writer.join()
    assert seen <= set(versions)
    assert len(seen) > 1


def test_a_folder_below_a_file_can_not_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder in (f"{tmp_path}/file", f"{tmp_path}/file/below"):
        with pytest.raises(UsageError, match=f"{folder} can't be written to .*: name another"):
            Storage(folder).write("run.json", b"{}")
    assert every_file(tmp_path) == ["file"]


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS])
@pytest.mark.parametrize("where", ["makedirs", "replace"])
def test_a_read_only_folder_is_said_to_be_so(
    code: int, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    storage = Storage(str(tmp_path))
    storage.write("t/0", b"kept")
    monkeypatch.setattr(os, where, refuse)
    with pytest.raises(UsageError, match=f"{tmp_path} can't be written to .*--out"):
        storage.write("t/0", b"new")
    with pytest.raises(UsageError, match=os.strerror(code)):
        storage.write("t/1", b"new")
    assert every_file(tmp_path) == ["t/0"]
    assert storage.read("t/0") == b"kept"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_to_be_full_and_loses_nothing(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(code, os.strerror(code))

    storage = Storage(str(tmp_path))
    storage.write("t/0", b"kept")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        for name in ("t/0", "t/1"):
            with pytest.raises(WhylensError, match=r"is full: make room and start") as caught:
                storage.write(name, b"new")
            assert not isinstance(caught.value, UsageError)  # asking otherwise would not help
    assert every_file(tmp_path) == ["t/0"]
    assert storage.read("t/0") == b"kept"
    storage.write("t/1", b"new")
    assert storage.names("t") == ["0", "1"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_disk_that_fills_up_while_writing_is_said_to_be_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import builtins

    # The kernel itself says that there is no room.
    with builtins.open("/dev/full", "wb") as full:
        monkeypatch.setattr("whylens.runs.storage.open", lambda *_: full, raising=False)
        with pytest.raises(WhylensError, match="is full"):
            Storage(str(tmp_path)).write("t/0", b"x" * 100_000)
    assert every_file(tmp_path) == []


def test_a_failure_that_passes_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, waits = [OSError(errno.EIO, "Input/output error")] * 3, list[float]()
    monkeypatch.setattr(os, "fsync", lambda _: left and _raise(left.pop()))
    monkeypatch.setattr(time, "sleep", waits.append)
    Storage(str(tmp_path)).write("t/0", b"x")
    assert Storage(str(tmp_path)).read("t/0") == b"x"
    assert waits == [0.5, 2.0, 8.0]
    assert every_file(tmp_path) == ["t/0"]


def _raise(error: OSError) -> None:
    raise error


def test_any_other_failure_is_passed_on_with_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with pytest.raises(WhylensError, match=f"writing to {tmp_path} failed: .*Input/output error"):
        Storage(str(tmp_path)).write("t/0", b"x")
    assert every_file(tmp_path) == []


def test_a_relative_folder_stays_where_it_was_when_the_directory_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    storage = Storage("out/run")
    monkeypatch.chdir(tmp_path / "other")
    storage.write("t/0", b"x")
    assert every_file(tmp_path) == ["out/run/t/0"]
    assert storage.path("t/0") == f"{tmp_path}/out/run/t/0"
    assert storage.url == "out/run"
