"""Progress of a stage: a bar on a terminal, log lines otherwise; metrics, and the run's record."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

from whylens import logs
from whylens.cluster import metrics
from whylens.cluster.gpus import seen

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

SECONDS_BETWEEN_LINES = 10.0


def never(_: Any) -> bool:
    """That nothing fails."""
    return False


def unheard(_: dict[str, Any]) -> None:
    """For nobody."""


def progress(
    items: Iterable[Item],
    *,
    stage: str,
    total: int,
    done: int = 0,
    retried: int = 0,
    failed: Callable[[Item], bool] = never,
    hear: Callable[[dict[str, Any]], None] = unheard,
) -> Iterator[Item]:
    """Pass items through, showing how many of `total` are there.

    Parameters
    ----------
    items
        Results of units, as they come.
    done, retried
        Units that were there before; and tries of units after the first until now.
    failed
        Whether an item is no unit done, but one that failed.
    hear
        Called with a record for run.json before the first item and after those in which seconds
        have passed: units, done, failed, retried, units_per_second, seconds_left (None before the
        first is done), and gpus as `whylens.cluster.gpus.seen`.
    """
    before, lost = done, 0
    began = last = time.monotonic()

    def told(now: float) -> dict[str, Any]:
        rate = (done - before) / (now - began) if now > began else 0.0
        left = (total - done - lost) / rate if rate else None
        values: dict[metrics.Metric, float | None] = {
            metrics.PLANNED: total,
            metrics.DONE: done,
            metrics.WAITING: total - done - lost,
            metrics.FAILED: lost,
            metrics.RETRIED: retried,
            metrics.RATE: rate,
            metrics.LEFT: left,
        }
        metrics.tell(values, {**logs.current(), "stage": stage})
        record = {
            "stage": stage,
            "units": total,
            "done": done,
            "failed": lost,
            "retried": retried,
            "units_per_second": round(rate, 4),
            "seconds_left": None if left is None else round(left),
            "gpus": seen(),
        }
        hear(record)
        return record

    told(began)
    bar = None
    if sys.stderr.isatty():
        bar = tqdm(desc=stage, total=total, initial=done, unit="unit", leave=True)
    elif not retried:
        logger.info("%s: %d of %d units were done before", stage, done, total)
    try:
        for item in items:
            yield item
            if failed(item):
                lost += 1
            else:
                done += 1
                if bar is not None:
                    bar.update()
            now = time.monotonic()
            if now - last < SECONDS_BETWEEN_LINES and done + lost < total:
                continue
            last = now
            record = told(now)
            if bar is not None:
                bar.set_postfix_str(beside(record))
            else:
                logger.info("%s", line(record))
    finally:
        if bar is not None:
            bar.close()


def line(record: dict[str, Any]) -> str:
    """A record in words."""
    words = [f"{record['stage']}: {record['done']} of {record['units']} units"]
    if record["done"] + record["failed"] < record["units"]:
        if (rate := record["units_per_second"]) > 0:
            words.append(f"{rate:.3g} a second" if rate >= 1 else f"{60 * rate:.3g} a minute")
        if (left := record["seconds_left"]) is not None:
            words.append(f"{duration(left)} left")
    return ", ".join([*words, *filter(None, [beside(record)])])


def beside(record: dict[str, Any]) -> str:
    """What a progress bar does not say of a record: failures, retries and GPUs."""
    words = [f"{record[name]} {name}" for name in ("failed", "retried") if record[name]]
    if gpus := record["gpus"]:
        uses = [gpu["use"] for gpu in gpus if gpu["use"] is not None]
        busy = f" {sum(uses) / len(uses):.0%} busy," if uses else ""
        fullest = max(gpus, key=lambda gpu: gpu["memory"] / gpu["of"])
        words.append(f"{len(gpus)} GPUs{busy} {fullest['memory']:.0f} of {fullest['of']:.0f} GiB")
    return ", ".join(words)


def duration(seconds: float) -> str:
    """Seconds as a reader says them: 40 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
