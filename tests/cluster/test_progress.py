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
