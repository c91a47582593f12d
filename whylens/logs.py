"""What a log line is about, and log lines as JSON.

`WHYLENS_LOG=json` makes every process of a run write a line of JSON for each message, with the run,
job, stage and unit that it is about.
"""

import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

VARIABLE = "WHYLENS_LOG"
FIELDS = ("run", "job", "stage", "unit")

_about: ContextVar[Mapping[str, str]] = ContextVar("about", default={})  # noqa: B039 never changed


def current() -> dict[str, str]:
    """What log lines are about now, to be given to another process."""
    return dict(_about.get())


@contextmanager
def about(**fields: str) -> Iterator[None]:
    """Log lines inside are about this run, job, stage or unit, beside what they were before."""
    token = _about.set({**_about.get(), **fields})
    try:
        yield
    finally:
        _about.reset(token)


def as_json() -> bool:
    """Whether log lines are to be JSON.

    Raises
    ------
    ValueError
        If WHYLENS_LOG is neither json nor plain.
    """
    value = os.environ.get(VARIABLE, "plain")
    if value not in ("json", "plain"):
        raise ValueError(f"{VARIABLE} is json or plain, not {value!r}")
    return value == "json"


def configure(level: int = logging.INFO) -> None:
    """Write whylens' messages of a level and above, and others' warnings, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    plain = logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S")
    handler.setFormatter(JsonLines() if as_json() else plain)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("whylens").setLevel(level)


class JsonLines(logging.Formatter):
    """A record as one line of JSON: time (UTC), level, logger, message, and what it is about."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **{name: value for name, value in _about.get().items() if name in FIELDS},
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(line, ensure_ascii=False)
