"""What failed is told where a run is shown."""

import time

import pyarrow as pa

from whylens.jobs.report.data import load_run
from whylens.jobs.report.parts.failures import FAILURES, FailedUnit
from whylens.jobs.report.words import standing
from whylens.jobs.stage import FAILURES_SCHEMA
from whylens.runs import Run
from whylens.runs.lease import DEAD_AFTER
from whylens.runs.lineage import Lineage


def test_a_unit_that_failed_is_listed_with_its_attempts_and_whether_it_was_done(tmp_path):
    run = Run.start(str(tmp_path), "toy", {})
    rows = [
        ("b-1", 1, "ValueError: odd", "2026-01-01T00:00:01Z"),
        ("b-2", 1, "OSError: gone", "2026-01-01T00:00:02Z"),
        ("b-1", 2, "ValueError: odder", "2026-01-01T00:00:03Z"),
    ]
    for unit, attempt, reason, when in rows:
        row = {"stage": "toys", "unit": unit, "attempt": attempt, "host": "h", "reason": reason,
               "traceback": "", "time": when}  # fmt: skip
        table = pa.Table.from_pylist([row], schema=FAILURES_SCHEMA)
        run.table("failures").write(f"{unit}-{attempt}", table)
    run.table("toys").write("b-2", pa.table({"n": [1]}))
    assert FAILURES.read(Lineage(run)) == (
        FailedUnit("toys", "b-1", 2, "ValueError: odder", "h", "2026-01-01T00:00:03Z", "no"),
        FailedUnit("toys", "b-2", 1, "OSError: gone", "h", "2026-01-01T00:00:02Z", "since then"),
    )
    told = FAILURES.sentence(load_run(str(tmp_path))[FAILURES])
    assert told.startswith("Attempts at 2 units of work failed; 1 of them are still undone.")


def test_how_a_run_stands_is_what_its_record_says():
    lack = {"images": {"units": 2, "of": 40, "reason": "OSError: gone"}}
    assert standing({"state": "finished"}) is None
    assert standing({"state": "failed", "error": "OSError: gone"}) == "failed: OSError: gone"
    assert standing({"state": "incomplete", "undone": lack}) == (
        "incomplete; images lacks 2 of 40 units, most of them for: OSError: gone"
    )
    now = time.time()
    assert standing({"state": "running", "heartbeat": now}) == "running"
    assert "last alive at" in str(standing({"state": "running", "heartbeat": now - DEAD_AFTER - 1}))
    assert standing({"state": "stopped"}) == "stopped"
