"""What takes long comes beside: no page waits for it longer than it said, or twice."""

import subprocess
import sys
import threading
import time
from pathlib import Path

from whylens.dashboard.kept import PATIENCE, Reading
from whylens.runs import OpenedRun, Run


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


def test_the_first_page_waits_for_no_heavy_import() -> None:
    heavy = (
        "{'torch', 'ray', 'diffusers', 'transformers', 'timm', 'faiss', 'sklearn', 'scipy.stats'}"
    )
    look = (
        "import sys; from whylens.dashboard.offered import own_views; own_views(); "
        f"print(sorted({heavy} & sys.modules.keys()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", look], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]", result.stdout
