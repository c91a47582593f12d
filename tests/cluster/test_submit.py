"""`whylens submit`: a job travels to a cluster with its code, and its run folder is there."""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import psutil
import pytest

from whylens.runs import Run

MARK = "WHYLENS_TEST_CLUSTER"
# The test cluster's own token, made here: whatever this machine's user has is left alone.
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def stop_marked(mark: str) -> None:
    """End the processes that were started with the mark, and no others."""
    until = time.monotonic() + 60
    while True:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == mark:
                    found.append(process)
        if not found:
            return
        assert time.monotonic() < until, f"kill -9 did not end {found}"
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)
        psutil.wait_procs(found, timeout=1)


@pytest.fixture(scope="module")
def server():
    """The address of the job server of a cluster of our own, on free ports."""
    mark = uuid.uuid4().hex
    gcs, dashboard, agent, client = free_ports(4)
    # Short, because Ray's sockets lie in it. A folder of our own also keeps other Ray programs on
    # this machine from joining the cluster.
    with tempfile.TemporaryDirectory(prefix="wl-", ignore_cleanup_errors=True) as temporary:
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        # As with an activated environment: a job's `python` is found on the head's PATH.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment |= {MARK: mark, "HF_HUB_OFFLINE": "1", "PATH": path, **TOKEN}
        try:
            started = subprocess.run(
                [
                    str(Path(sys.executable).parent / "ray"),
                    "start",
                    "--head",
                    "--num-cpus=2",
                    "--object-store-memory=100000000",
                    f"--port={gcs}",
                    f"--dashboard-port={dashboard}",
                    f"--dashboard-agent-listen-port={agent}",
                    f"--ray-client-server-port={client}",
                    f"--temp-dir={temporary}",
                    "--disable-usage-stats",
                ],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=180,
            )
            assert started.returncode == 0, started.stdout + started.stderr
            yield f"http://127.0.0.1:{dashboard}"
        finally:
            stop_marked(mark)


def submit(spec: Path, address: str, **settings: str) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    environment |= TOKEN | settings
    words = ["submit", "embed", str(spec), "--address", address]
    return subprocess.run(
        [sys.executable, "-m", "whylens.jobs.cli", *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )


def write_spec(folder: Path, **more: object) -> Path:
    spec = {
        "images": "planted:linked?count=40&seed=3",
        "classifier": "planted:biased",
        "out": str(folder / "run"),
        "unit": 20,
        "placement": {"workers": [1, 1], "num_cpus": 1},
        **more,
    }
    # A name with a blank, as files have.
    path = folder / "my spec.yaml"
    path.write_text(json.dumps(spec))
    return path


@pytest.mark.slow
def test_a_submitted_job_succeeds_and_leaves_its_run(server, tmp_path):
    result = submit(write_spec(tmp_path), server)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.strip().splitlines()[-1] == "SUCCEEDED"
    # The job's own log is shown while it runs.
    assert "images: 2 of 2 units" in result.stderr
    run = Run.open(str(tmp_path / "run"))
    assert run.record()["state"] == "finished"
    table = run.table("images").read()
    assert table["id"].to_pylist() == [f"linked-3-{i:06d}" for i in range(40)]


@pytest.mark.slow
def test_a_job_that_fails_is_a_failure_here_too(server, tmp_path):
    (tmp_path / "photos").mkdir()
    result = submit(write_spec(tmp_path, images=str(tmp_path / "photos")), server)
    assert result.returncode == 1
    assert result.stdout.strip().splitlines()[-1] == "FAILED"
    assert f"no images in {tmp_path / 'photos'}" in result.stderr


@pytest.mark.slow
def test_a_server_that_asks_for_another_token_is_one_message(server, tmp_path):
    result = submit(write_spec(tmp_path), server, RAY_AUTH_TOKEN="0" * 64)
    assert result.returncode == 2, result.stderr
    (message,) = [line for line in result.stderr.splitlines() if line.startswith("whylens: ")]
    assert f"{server} asks for a token: set RAY_AUTH_MODE=token" in message
    assert "Traceback" not in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("form", ["http://127.0.0.1:{}", "127.0.0.1:{}", "nonsense"])
def test_no_server_at_the_address_is_one_message(tmp_path, form):
    address = form.format(free_ports(1)[0])
    result = submit(write_spec(tmp_path), address)
    assert result.returncode == 2, result.stderr
    (message,) = [line for line in result.stderr.splitlines() if line.startswith("whylens: ")]
    assert message.startswith(f"whylens: no Ray job server answers at {address}")
    assert "Traceback" not in result.stderr
