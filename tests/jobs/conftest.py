"""A command and its stages, in pytest's process."""

import logging

import pytest


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
        missing = [unit for unit in units if not run.table(stage).done(unit.name)]
        worker = make(*arguments) if missing else None
        for unit in missing:
            worker(unit)

    return work_through
