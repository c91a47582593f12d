"""A command and its stages, in pytest's process."""

import logging

import pytest

from whylens.cluster.workers import UnitFailed
from whylens.errors import WhylensError
from whylens.jobs.stage import do_missing


@pytest.fixture(autouse=True)
def _own_logging():
    """The command sets up logging for its process: here it is a guest in pytest's."""
    root, package = logging.getLogger(), logging.getLogger("whylens")
    handlers, levels = list(root.handlers), (root.level, package.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    package.setLevel(levels[1])


@pytest.fixture(scope="session")
def in_process():
    """`work_through` without Ray: one unit after the other."""

    def work_through(run, stage, units, make, arguments, placement):
        def do(missing):
            worker = make(*arguments)
            for unit in missing:
                try:
                    result = worker(unit)
                except WhylensError:
                    raise
                except Exception as error:
                    result = UnitFailed.by(error)
                yield unit, result

        do_missing(run, stage, units, do)

    return work_through
