"""The last lines of a job's log are in its run folder, for those who look at it from elsewhere."""

import logging
from pathlib import Path

import pytest

from whylens import logs
from whylens.runs import Run
from whylens.runs.log import KEPT, NAME, READ, last_lines

logger = logging.getLogger("whylens.somewhere")


def worked(folder: Path, *messages: str) -> Run:
    """A job that logs some messages about the stage "embed" and ends."""
    run = Run.start(str(folder), "embed", {})
    with logs.about(stage="embed"), run.working():
        for message in messages:
            logger.warning("%s", message)
    return run


def test_a_run_that_is_gone_on_with_keeps_what_was_logged_before(tmp_path: Path) -> None:
    worked(tmp_path, "one", "two\nlines")
    logger.warning("after its end")
    run = worked(tmp_path, "three")
    lines = last_lines(run.storage)
    assert [line["message"] for line in lines] == ["one", "two\nlines", "three"]
    assert {line["stage"] for line in lines} == {"embed"}


def test_a_failure_is_logged_to_its_end(tmp_path: Path) -> None:
    run = Run.start(str(tmp_path), "embed", {})

    def fail() -> None:
        with run.working():
            logger.warning("about to fail")
            raise OSError("it failed")

    with pytest.raises(OSError, match="it failed"):
        fail()
    assert [line["message"] for line in last_lines(run.storage)] == ["about to fail"]


def test_the_last_lines_alone_are_kept(tmp_path: Path) -> None:
    run = worked(tmp_path, *map(str, range(KEPT + 7)))
    kept = [line["message"] for line in last_lines(run.storage)]
    assert kept == [str(place) for place in range(7, KEPT + 7)]


def test_of_anybodys_file_the_end_is_read_and_what_is_no_line_left_out(tmp_path: Path) -> None:
    run = Run.start(str(tmp_path), "embed", {})
    good = '{"message": "good"}'
    (tmp_path / NAME).write_text(f"{'x' * READ}\n[1]\nnull\n{good}\n\xff{{\n")
    assert last_lines(run.storage) == [{"message": "good"}]
    (tmp_path / NAME).unlink()
    assert last_lines(run.storage) == []
