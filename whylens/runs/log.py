"""The last lines of a job's log, in its run folder: for those who look at the run from elsewhere.

They are the driver's, as JSON (`whylens.logs`), and written with its heartbeats; where a run is
gone on with, after those of before.
"""

import json
import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from whylens.logs import JsonLines
from whylens.runs.storage import Storage

NAME = "log.jsonl"
# How many lines are kept, and how many of a file's last bytes are read: it may be anybody's.
KEPT, READ = 200, 256 * 1024


class RunLog(logging.Handler):
    """Keeps the last lines that whylens logs, until they are written."""

    def __init__(self, storage: Storage) -> None:
        super().__init__()
        self.setFormatter(JsonLines())
        self._storage = storage
        self._lines = deque((json.dumps(line) for line in last_lines(storage)), KEPT)
        self._new = False

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record))
        self._new = True

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Keep what is logged inside."""
        logger = logging.getLogger("whylens")
        logger.addHandler(self)
        try:
            yield
        finally:
            logger.removeHandler(self)

    def write(self) -> None:
        """Write the lines, where there are new ones.

        Raises
        ------
        WhylensError
            As `Storage.write`.
        """
        self.acquire()
        try:
            text, new, self._new = "\n".join(self._lines), self._new, False
        finally:
            self.release()
        if new:
            self._storage.write(NAME, f"{text}\n".encode())


def last_lines(storage: Storage) -> list[dict[str, Any]]:
    """The lines that are there, oldest first; none where there is no log.

    What is no line of a log is left out.
    """
    try:
        with storage.open(NAME) as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - READ))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line for raw in text.splitlines() if (line := _line(raw)) is not None]


def _line(raw: str) -> dict[str, Any] | None:
    try:
        line = json.loads(raw)
    except ValueError:
        return None
    return line if isinstance(line, dict) and "message" in line else None
