"""Progress: log lines where there is no terminal, and every item comes through."""

import io
import logging
from types import SimpleNamespace

import pytest

from whylens.cluster import progress as module
from whylens.cluster.progress import progress


def test_items_come_through_as_they_are(caplog):
    caplog.set_level(logging.INFO, "whylens")
    assert list(progress(iter("abc"), stage="images", total=5, done=2)) == ["a", "b", "c"]
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "images: 2 of 5 units were done before"
    assert lines[-1] == "images: 5 of 5 units"


def test_lines_are_rare(caplog, monkeypatch):
    caplog.set_level(logging.INFO, "whylens")
    now = iter(range(1000))
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(now)))
    list(progress(range(35), stage="images", total=35))
    # The clock is looked at once an item, and again at each line: one line in ten items or so.
    assert len(caplog.records) == 1 + 4


def test_a_terminal_gets_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    assert list(progress(range(3), stage="images", total=4, done=1)) == [0, 1, 2]
    assert "images" in terminal.getvalue()
    assert "4/4" in terminal.getvalue()


def test_an_error_in_the_work_is_not_swallowed():
    def broken():
        yield 1
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        list(progress(broken(), stage="images", total=2))


def test_rate_and_time_left_are_of_this_start(caplog, monkeypatch):
    caplog.set_level(logging.INFO, "whylens")
    # A look an item, four seconds apart: 25 units are done before the first line at 100 s.
    now = iter(range(0, 4000, 4))
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(now)))
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", 100.0)
    heard = []
    items = progress(
        range(26), stage="images", total=200, done=50, failed=lambda n: n == 24, hear=heard.append
    )
    assert list(items) == list(range(26))
    assert [(record["done"], record["failed"]) for record in heard] == [(50, 0), (74, 1)]
    assert heard[0]["seconds_left"] is None
    assert heard[1]["units_per_second"] == pytest.approx(24 / 100)
    assert heard[1]["seconds_left"] == round((200 - 74 - 1) / (24 / 100))
    said = caplog.records[-1].getMessage()
    assert said == "images: 74 of 200 units, 14.4 a minute, 9 min left, 1 failed"


def test_gpus_are_told_in_few_words():
    gpus = [
        {"host": "a", "pid": 1, "use": 0.9, "memory": 27.1, "of": 80.0},
        {"host": "a", "pid": 2, "use": 0.7, "memory": 12.0, "of": 80.0},
    ]
    record = {"failed": 0, "retried": 3, "gpus": gpus}
    assert module.beside(record) == "3 retried, 2 GPUs 80% busy, 27 of 80 GiB"
    unknown = [{**gpus[0], "use": None}]
    assert module.beside({**record, "gpus": unknown, "retried": 0}) == "1 GPUs 27 of 80 GiB"


@pytest.mark.parametrize(
    ("seconds", "words"), [(40, "40 s"), (600, "10 min"), (12000, "3 h 20 min")]
)
def test_durations_are_said_as_people_do(seconds, words):
    assert module.duration(seconds) == words
