"""`whylens submit`: a job travels to a cluster with its code, and its run folder is there."""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import pytest
from PIL import Image

from whylens.cluster import versions
from whylens.cluster.job_server import JobServer
from whylens.cluster.versions import Version
from whylens.jobs.cli import main
from whylens.runs import Run

from .conftest import MARK, free_ports, stop_marked

# The test cluster's own token, made here: whatever this machine's user has is left alone.
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


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


def submit(spec: Path, address: str, *options: str, **settings: str) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    environment |= TOKEN | settings
    words = ["submit", "embed", str(spec), "--address", address, *options]
    return subprocess.run(
        [sys.executable, "-m", "whylens.jobs.cli", *words],
        env=environment,
        cwd=spec.parent,
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


@pytest.fixture
def jobs(server, capsys, monkeypatch):
    """Run `whylens jobs ...` in this process; its exit code and what it printed."""
    # Ray reads RAY_AUTH_MODE once a process, and a test before may have had it read.
    headers = {"authorization": f"Bearer {TOKEN['RAY_AUTH_TOKEN']}"}
    for name, value in {**TOKEN, "RAY_JOB_HEADERS": json.dumps(headers)}.items():
        monkeypatch.setenv(name, value)

    def run(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stop:
            main(["jobs", *words, "--address", server])
        return stop.value.code, capsys.readouterr().out

    return run


@pytest.mark.slow
def test_a_submitted_job_succeeds_and_leaves_its_run(server, jobs, tmp_path, capsys, monkeypatch):
    (tmp_path / "photos").mkdir()
    for shade in (60, 200):
        Image.new("RGB", (64, 64), (shade,) * 3).save(tmp_path / "photos" / f"{shade}.png")
    # What a .gitignore names travels too: the spec asks for it.
    (tmp_path / "photos" / ".gitignore").write_text("*.png\n")
    spec = write_spec(tmp_path, second="elsewhere")
    monkeypatch.chdir(tmp_path)
    options = ("--set", "second=photos", "--submission-id", "mine", "--env", "WHYLENS_LOG=plain")
    result = submit(spec, server, *options)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.strip().splitlines()[-1] == "SUCCEEDED"
    # The job's own log is shown while it runs.
    assert "images: 2 of 2 units" in result.stderr
    run = Run.open(str(tmp_path / "run"))
    assert run.record()["state"] == "finished"
    images = run.table("images")
    table = images.read(units=["main-000000", "main-000001"])
    assert table["id"].to_pylist() == [f"linked-3-{i:06d}" for i in range(40)]
    assert images.read_part("second-000000")["id"].to_pylist() == ["200.png", "60.png"]

    code, said = jobs("status", "mine")
    assert code == 0
    assert said.splitlines()[0].endswith(f"run: {tmp_path / 'run'}")
    assert said.splitlines()[1:] == ["The run is finished", "images: 1 of 1 units", "SUCCEEDED"]
    code, log = jobs("logs", "mine")
    assert code == 0
    assert "images: 2 of 2 units" in log
    code, listed = jobs("list", "--json")
    (mine,) = [job for job in json.loads(listed) if job["id"] == "mine"]
    assert (mine["job"], mine["status"], mine["exit_code"]) == ("embed", "SUCCEEDED", 0)
    assert jobs("stop", "mine") == (0, "SUCCEEDED\n")
    assert jobs("status", "nobody's")[0] == 2
    with pytest.raises(SystemExit) as stop:
        main(["submit", "embed", str(spec), "--address", server, *options])
    assert stop.value.code == 2
    assert "has a job mine already" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_leaves_a_job_running_until_it_is_stopped(server, jobs):
    # Any job will do: one of ours would load torch first.
    JobServer(server).client.submit_job(entrypoint="echo begun; sleep 600", submission_id="long")
    following = subprocess.Popen(
        [sys.executable, "-m", "whylens.jobs.cli", "jobs", "logs", "long", "--follow"],
        env=os.environ | TOKEN | {"RAY_API_SERVER_ADDRESS": server},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Ctrl-C is ignored by what a shell starts in the background, these tests included.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert following.stdout is not None
    while (line := following.stdout.readline()) != "begun\n":
        assert line
    following.send_signal(signal.SIGINT)
    _, said = following.communicate(timeout=60)
    assert following.returncode == 4, said
    assert f"detached: the job goes on. whylens jobs logs long --follow --address {server}" in said
    assert "What is finished is kept" not in said
    assert jobs("status", "long")[0] == 4
    assert jobs("stop", "long") == (0, "STOPPED\n")
    assert jobs("status", "long")[0] == 5


@pytest.mark.slow
def test_versions_that_do_not_fit_are_named_and_nothing_runs(server, jobs, tmp_path, monkeypatch):
    there = versions.here()
    other = {"torch": Version("9.0.0", ">=9,<10"), "ray": Version("1.0.0")}
    monkeypatch.setattr(versions, "here", lambda: there | other)
    spec = write_spec(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["submit", "embed", str(spec), "--address", server, "--submission-id", "newer"])
    assert stop.value.code == 1
    _, log = jobs("logs", "newer")
    ray, torch = there["ray"].version, there["torch"].version
    assert f"ray is 1.0.0 where the job was submitted, {ray} on the cluster" in log
    needs = f"torch is 9.0.0 where the job was submitted, {torch} on the cluster; whylens needs"
    assert needs in log
    assert not (tmp_path / "run").exists()


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
