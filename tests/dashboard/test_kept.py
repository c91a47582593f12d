"""What takes long comes beside: no page waits for it longer than it said, or twice."""

import runpy
import subprocess
import sys
import threading
import time
from pathlib import Path

import fsspec

from whylens.dashboard.kept import PATIENCE, Reading
from whylens.dashboard.reviewing import write_label
from whylens.jobs.labelled import WITHDRAWN
from whylens.jobs.report.parts.findings import FINDINGS
from whylens.runs import OpenedRun, Run

synthetic = runpy.run_path(str(Path(__file__).parents[1] / "jobs" / "synthetic_run.py"))


def test_pages_wait_once_for_what_takes_long(tmp_path: Path) -> None:
    Run.start(str(tmp_path), "investigate", {})
    reading = Reading(OpenedRun(str(tmp_path)), str(tmp_path))
    there = threading.Event()

    def slow() -> str:
        there.wait()
        return "made"

    began = time.monotonic()
    assert reading.soon("slow", ("images",), slow) is None
    waited = time.monotonic()
    assert reading.soon("slow", ("images",), slow) is None
    again = time.monotonic()
    assert reading.busy() == ["slow"]
    assert waited - began >= PATIENCE > again - waited
    there.set()
    while reading.busy():
        time.sleep(0.01)
    assert reading.soon("slow", ("images",), slow) == "made"


def test_a_judgement_is_seen_at_once_where_listings_are_believed_for_a_while(
    tmp_path: Path,
) -> None:
    place = "memory://judged/run"
    fsspec.filesystem("memory").put(
        str(synthetic["build_run"](tmp_path / "run")), place, recursive=True
    )
    try:
        reading = Reading(OpenedRun(place, "memory://judged"), "memory://judged")
        one = reading[FINDINGS][0]
        said = len(reading.labels().get(one.key, []))
        assert write_label(reading, one, "unsure", "Ada") is None
        assert [row["who"] for row in reading.labels()[one.key]][said:] == ["Ada"]
        assert write_label(reading, one, WITHDRAWN, "Ada") is None
        assert len(reading.labels().get(one.key, [])) == said
    finally:
        fsspec.filesystem("memory").rm("/judged", recursive=True)


def test_the_first_page_waits_for_no_heavy_import(tmp_path: Path) -> None:
    run = synthetic["build_run"](tmp_path / "run")
    heavy = "{'torch', 'ray', 'diffusers', 'transformers', 'faiss', 'sklearn', 'scipy.stats'}"
    look = f"""
import sys
from whylens.dashboard.kept import reading
from whylens.dashboard.offered import own_views
from whylens.dashboard.views.overview import told
own_views()
print(told(reading(sys.argv[1], sys.argv[1], "")).manifest["job"])
print(sorted({heavy} & sys.modules.keys()))
"""
    line = [sys.executable, "-c", look, str(run)]
    result = subprocess.run(line, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["investigate", "[]"]
