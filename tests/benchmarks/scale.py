"""What the machinery around the work costs: a unit's overhead, workers side by side, the driver.

    python tests/benchmarks/scale.py                 # 10,000 units; minutes on two cores
    python tests/benchmarks/scale.py --units 1000

Units are those of a stage (`jobs/stage.py`): the pool hands each to a worker, which writes its part
of one row. As its last line it prints JSON:

overhead_ms         milliseconds a unit that does nothing but write its part, one worker; of which
                    write_ms alone is the part's, and driver_ms the driver's own CPU time
two_worker_speedup  units a second of two workers over those of one, where a unit sleeps
driver_mb           what the driver's memory grows by when it plans 1,000,000 units of images, finds
                    those that have no part yet and has them waiting
simulated           of a job on 1 to 256 workers, with the overhead measured here: speed-up over one
                    worker, and what limits it

The simulation is of discrete events. The driver is one process, which is busy `hand_ms` for each
unit (driver_ms); a worker loads its models first, from storage that all share, then takes units of
varying lengths one by one.
"""

import argparse
import heapq
import json
import os
import resource
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from whylens.cluster.placement import Resources
from whylens.cluster.pool import WorkerPool
from whylens.cluster.session import session
from whylens.images.collection import ImageCollection
from whylens.images.collection import units as cut
from whylens.images.listing import ImageRecord, Records
from whylens.jobs.images.embedding import ImageUnit
from whylens.jobs.stage import do_missing
from whylens.runs import Run

PLANNED = 1_000_000


@dataclass(frozen=True)
class Empty:
    """A unit that takes so many seconds."""

    name: str
    seconds: float = 0.0


class Writer:
    """A worker: sleeps as long as a unit takes, then writes its part; waits for all the others
    first, which a busy machine starts slowly."""

    def __init__(self, run: Run, workers: int) -> None:
        self.table, self.workers, self.there = (
            run.table("empty"),
            workers,
            Path(run.folder, "there"),
        )

    def __call__(self, unit: Empty) -> float:
        self.there.mkdir(exist_ok=True)
        (self.there / str(os.getpid())).touch()
        while len(list(self.there.iterdir())) < self.workers:
            time.sleep(0.05)
        time.sleep(unit.seconds)
        began = time.perf_counter()
        self.table.write(unit.name, pa.table({"unit": [unit.name]}))
        return time.perf_counter() - began


class Listed(ImageCollection):
    """As many records, and no images."""

    def __init__(self, count: int) -> None:
        self.uri = "listed"
        self.records = Records([f"class/{k:09d}.jpg" for k in range(count)], "images/")

    def load(self, record: ImageRecord) -> np.ndarray:
        raise NotImplementedError


def start(name):
    return Run.start(tempfile.mkdtemp(prefix="whylens-scale-") + "/run", name, {}, dict)


def worked(pool, units):
    """Seconds from the first result to the last, this process's CPU time then, and the results."""
    ends, busy, results = [], [], []
    for _, result in pool.map(units):
        ends.append(time.perf_counter())
        busy.append(time.process_time())
        results.append(result)
    return ends[-1] - ends[0], busy[-1] - busy[0], results


def memory_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def overhead(count):
    """Milliseconds a unit; of these the writing of its part; CPU time of the driver."""
    units = [Empty(f"{k:06d}") for k in range(count)]
    placement = Resources(workers=(1, 1), num_gpus=0, num_cpus=0.5)
    pool = WorkerPool(Writer, (start("empty"), 1), placement)
    seconds, busy, results = worked(pool, units)
    return 1000 * seconds / (count - 1), 1000 * statistics.mean(results), 1000 * busy / (count - 1)


def speedup(count=60, seconds=0.5):
    """Of two workers over one, on units that sleep; workers are there when the clock starts."""
    rates = []
    for workers in (1, 2):
        placement = Resources(workers=(workers, workers), num_gpus=0, num_cpus=0.5)
        units = [Empty(f"{k:06d}", seconds) for k in range(count * workers)]
        pool = WorkerPool(Writer, (start("sleep"), workers), placement)
        ends = [time.perf_counter() for _ in pool.map(units)][4 * workers : -2 * workers]
        rates.append((len(ends) - 1) / (ends[-1] - ends[0]))
    return rates[1] / rates[0]


def planned():
    """Megabytes by which this process grows for units that no worker ever takes."""
    run, collection, before = start("planned"), Listed(PLANNED), memory_mb()
    todo = [ImageUnit(f"main-{name}", collection, part) for name, part in cut(len(collection), 1)]

    def waiting(units):
        held = list(reversed(units))
        yield from ((unit, None) for unit in held[:1])

    do_missing(run, "planned", todo, waiting)
    return memory_mb() - before


def simulate(workers, hand_ms, write_ms, *, units, unit_s, load_gb, node_gbs, shared_gbs, seed=0):
    """Seconds of a job; and how much of them the driver was busy, and workers waited for models.

    Lengths of units vary by a third (lognormal). A worker's models come at `node_gbs` GB a second,
    or its share of the `shared_gbs` that the storage gives to all.
    """
    lengths = unit_s * np.random.default_rng(seed).lognormal(-0.05, 1 / 3, units)
    loading = load_gb / min(node_gbs, shared_gbs / workers)
    free = [(loading, k) for k in range(workers)]
    heapq.heapify(free)
    driver, end = 0.0, 0.0
    for length in lengths:
        ready, worker = heapq.heappop(free)
        driver = max(driver, ready) + hand_ms / 1000
        done = driver + length + write_ms / 1000
        end = max(end, done)
        heapq.heappush(free, (done, worker))
    return end, units * hand_ms / 1000 / end, loading / end


def simulated(hand_ms, write_ms):
    """1,000 batches of counterfactuals of a minute, and 5,000 units of embedding of 2 s."""
    jobs = {
        "counterfactuals": {"units": 1000, "unit_s": 60, "load_gb": 5.0},
        "embed": {"units": 5000, "unit_s": 2.0, "load_gb": 0.1},
    }
    rows = []
    for job, settings in jobs.items():
        settings = {**settings, "node_gbs": 1.0, "shared_gbs": 5.0}
        alone, *_ = simulate(1, hand_ms, write_ms, **settings)
        for workers in (1, 4, 16, 64, 256):
            end, driver, loading = simulate(workers, hand_ms, write_ms, **settings)
            ideal = alone / workers
            losses = {
                "the driver": driver if driver > 0.8 else 0.0,
                "loading models from shared storage": loading,
                "the last units": max(0.0, 1 - loading - ideal / end),
            }
            limit = max(losses, key=losses.__getitem__)
            rows.append(
                {
                    "job": job,
                    "workers": workers,
                    "speedup": round(float(alone / end), 1),
                    "limit": limit if losses[limit] > 0.05 else "none",
                }
            )
    return rows


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--units", type=int, default=10_000)
    options = parser.parse_args()
    grown = planned()
    with session():
        each, writing, busy = overhead(options.units)
        faster = speedup()
    rows = simulated(busy, writing)
    for row in rows:
        print(row)
    print(
        json.dumps(
            {
                "overhead_ms": round(each, 2),
                "write_ms": round(writing, 2),
                "driver_ms": round(busy, 2),
                "two_worker_speedup": round(faster, 2),
                "driver_mb": round(grown),
                "simulated": rows,
            }
        )
    )


if __name__ == "__main__":
    main()
