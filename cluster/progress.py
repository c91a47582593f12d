"""Progress of a stage: a bar on a terminal, log lines otherwise."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

SECONDS_BETWEEN_LINES = 10.0


def progress(items: Iterable[Item], *, stage: str, total: int, done: int = 0) -> Iterator[Item]:
    """Pass items through, showing how many of `total` are there; `done` were there before."""
    if sys.stderr.isatty():
        with tqdm(items, desc=stage, total=total, initial=done, unit="unit", leave=True) as bar:
            yield from bar
        return
    count, last = done, time.monotonic()
    logger.info("%s: %d of %d units were done before", stage, done, total)
    for item in items:
        yield item
        count += 1
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES or count == total:
            logger.info("%s: %d of %d units", stage, count, total)
            last = time.monotonic()
