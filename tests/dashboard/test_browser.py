"""The served page in a real browser: it shows the run and talks to nobody else."""

import runpy
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from whylens.dashboard.launch import command

chromium = shutil.which("chromium")
pytestmark = pytest.mark.skipif(chromium is None, reason="no chromium on this machine")
synthetic = runpy.run_path(str(Path(__file__).parents[1] / "jobs" / "synthetic_run.py"))


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    folder = synthetic["build_run"](tmp_path)
    server = subprocess.Popen(command(str(folder), port=port), stdout=subprocess.DEVNULL)
    url = f"http://localhost:{port}"
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{url}/_stcore/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.5)
        yield url
    finally:
        server.terminate()
        server.wait(timeout=30)


@pytest.mark.slow
def test_the_page_shows_the_run_and_asks_no_other_host(address: str) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page()
        hosts = set()
        page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
        page.goto(address)
        page.get_by_text("2 of 10 classes rely").wait_for(timeout=60_000)
        page.get_by_test_id("stSidebar").get_by_text("Findings", exact=True).click()
        page.get_by_text("sea says fish").wait_for(timeout=60_000)
        widths = page.eval_on_selector_all(".whylens img", "all => all.map(i => i.naturalWidth)")
        assert len(widths) > 12
        assert all(width > 1 for width in widths)
        browser.close()
    assert hosts <= {"localhost", None}
