"""Log lines as JSON: a line each, that says which run, job, stage and unit it is about."""

import json
import logging
import pickle
from types import SimpleNamespace

import pytest

from whylens import logs
from whylens.cluster.workers import Host
from whylens.errors import WhylensError
from whylens.runs import Run


@pytest.fixture(autouse=True)
def _as_before():
    root, whylens = logging.getLogger(), logging.getLogger("whylens")
    handlers, level, own = root.handlers[:], root.level, whylens.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    whylens.setLevel(own)


def test_a_line_says_what_it_is_about(monkeypatch, capsys):
    monkeypatch.setenv(logs.VARIABLE, "json")
    logs.configure()
    logger = logging.getLogger("whylens.somewhere")
    with logs.about(run="out/demo", job="embed"):
        with logs.about(stage="images", unit="u-1"):
            try:
                raise ValueError("no\nroot")
            except ValueError:
                logger.exception("%d went wrong", 2)
        logger.info("über")
    logger.debug("too little to say")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert first["message"] == "2 went wrong"
    assert first["level"] == "ERROR"
    assert first["logger"] == "whylens.somewhere"
    assert [first[name] for name in logs.FIELDS] == ["out/demo", "embed", "images", "u-1"]
    assert first["traceback"].splitlines()[-2:] == ["ValueError: no", "root"]
    assert second["message"] == "über"
    assert set(second) == {"time", "level", "logger", "message", "run", "job"}


def test_another_form_is_refused(monkeypatch):
    monkeypatch.setenv(logs.VARIABLE, "xml")
    with pytest.raises(ValueError, match="WHYLENS_LOG is json or plain, not 'xml'"):
        logs.configure()


class Odd:
    """A worker that can do no unit, or not even start."""

    def __init__(self, starts: bool) -> None:
        if not starts:
            raise RuntimeError("no weights")

    def __call__(self, unit: object) -> None:
        raise ValueError("no root")


def test_a_workers_lines_name_the_unit(monkeypatch, capsys):
    monkeypatch.setenv(logs.VARIABLE, "json")
    host = Host()
    assert host.load(Odd, (True,), {"run": "r", "job": "embed", "stage": "images"}) is None
    assert host.work(SimpleNamespace(name="u-7")).reason == "ValueError: no root"
    (line,) = map(json.loads, capsys.readouterr().err.splitlines())
    assert [line[name] for name in logs.FIELDS] == ["r", "embed", "images", "u-7"]
    assert line["traceback"].endswith("ValueError: no root\n")


def test_why_no_worker_starts_reaches_the_run_folder(tmp_path):
    # As it comes from another process.
    told = pickle.loads(pickle.dumps(Host().load(Odd, (False,), {})))
    run = Run.start(str(tmp_path / "run"), "toy", {})
    with pytest.raises(WhylensError, match="a worker could not start"), run.working():
        raise told
    record = run.record()
    assert record["state"] == "failed"
    assert 'raise RuntimeError("no weights")' in record["traceback"]
