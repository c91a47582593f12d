"""The command's process is the server's: what ends the one ends the other."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from whylens.runs import Run


@pytest.mark.slow
def test_sigterm_ends_the_server(tmp_path: Path) -> None:
    Run.start(str(tmp_path), "score", {})
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    line = [
        sys.executable,
        "-m",
        "whylens.jobs.cli",
        "dashboard",
        str(tmp_path),
        "--port",
        str(port),
    ]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        health = f"http://localhost:{port}/_stcore/health"
        for _ in range(600):
            try:
                urllib.request.urlopen(health, timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(health, timeout=5)
        with pytest.raises(ProcessLookupError):  # nobody of its group is left
            os.killpg(process.pid, 0)
    finally:
        if process.poll() is None:
            process.kill()
