"""Does a job end whole, whatever is killed meanwhile? `python tests/benchmarks/chaos.py --seed N`

A cluster of four raylets on this machine, a run folder on an S3 server (moto's, with s3fs's
listing cache on), 200 units that draw planted images, ask a classifier that is an actor of its own
about them and sleep a moment, and 30 kills at random moments of the work: a worker's process
(SIGKILL), an actor (by Ray), the classifier's process (SIGKILL), a raylet with all its processes (a
new one comes), the driver (SIGKILL, then started again), and the S3 server for 5 s. Then every unit
has to be there once, with the rows of a run that nobody disturbed, and at most one unit done again
a kill; a driver's death takes both workers, so two. The last line is JSON:

    lost, duplicated   units without rows, and with rows more than once
    equal              whether the tables have the rows of the undisturbed run (losses to 1e-5)
    redone_per_kill    units that were begun again, divided by the kills; redone_at_most after one
    by_kind            kills, and units begun again after them
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import boto3
import numpy as np
import psutil
import pyarrow as pa
import torch

from whylens.cluster.classifiers import connected, serve
from whylens.cluster.placement import Placement
from whylens.cluster.session import session
from whylens.guidance.objectives import TargetClass
from whylens.jobs.registry import Job
from whylens.jobs.spec import JobSpec
from whylens.jobs.stage import Batch, work_through
from whylens.planted.drawing.world import OBJECTS, draw, sample_scene
from whylens.runs import Run

TABLE = "drawings"
UNITS, IMAGES = 200, 3
# Seconds that a unit takes at least, that the server is away, and that all may take.
SLEEP, AWAY, PATIENCE = 0.4, 5.0, 3600.0
KINDS = {"worker": 8, "actor": 5, "classifier": 5, "raylet": 4, "driver": 4, "server": 4}
BUCKET = "chaos"
CLASSIFIER = "planted:biased"


class ChaosSpec(JobSpec):
    """Planted images."""

    units: int


class Drawer:
    """A worker: draws a unit's images and asks the classifier about them; the journal says when
    it began which unit."""

    def __init__(self, run: Run, journal: str, actor) -> None:
        self.run, self.journal, self.classifier = run, journal, connected(actor, "cpu")

    def __call__(self, unit: Batch[int]) -> None:
        with open(self.journal, "a") as journal:
            journal.write(f"{time.time()} {unit.name}\n")
        time.sleep(SLEEP)
        scenes = [sample_scene("linked", 3, index) for index in unit.tasks]
        images = np.stack([draw(scene).image for scene in scenes])
        pixels = torch.tensor(images).permute(0, 3, 1, 2).float() / 255
        objective = TargetClass(self.classifier, torch.tensor(unit.tasks) % len(OBJECTS))
        losses, _ = objective.value_and_gradient(pixels)
        rows = [
            {"id": index, "caption": scene.caption, "pixels": image.tobytes(), "loss": loss}
            for index, scene, image, loss in zip(
                unit.tasks, scenes, images, losses.tolist(), strict=True
            )
        ]
        self.run.table(TABLE).write(unit.name, pa.Table.from_pylist(rows))


def units(count: int) -> list[Batch[int]]:
    return [
        Batch(f"{number:05d}", tuple(range(number * IMAGES, (number + 1) * IMAGES)))
        for number in range(count)
    ]


JOB = Job(name="chaos", help="", spec=ChaosSpec, run=lambda spec: None, tables=(TABLE,))


def drive(out: str, count: int, folder: Path) -> None:
    """The driver, in a process of its own; kills one of its actors where a file asks for it."""
    placement = Placement(workers=(1, 2), num_cpus=1, classifiers="remote")
    spec = ChaosSpec(out=out, units=count, placement=placement)
    with JOB.working(spec) as run, session() as ray:
        threading.Thread(target=kill_actors, args=(ray, folder / "kill-actor"), daemon=True).start()
        (actor,) = serve(ray, [CLASSIFIER], placement).values()
        given = run, str(folder / "journal"), actor
        work_through(run, TABLE, units(count), Drawer, given, placement)


def kill_actors(ray, asked: Path) -> None:
    from ray._private.state import actors

    while True:
        time.sleep(0.05)
        # Not the classifier's: Ray starts it again when its process dies, and not once it is told
        # to end it.
        alive = [
            name
            for name, actor in actors().items()
            if actor["State"] == "ALIVE" and actor["ActorClassName"] == "Host"
        ]
        if asked.exists() and alive:
            victim = ray._raylet.ActorID.from_hex(alive[time.time_ns() % len(alive)])
            ray._private.worker.global_worker.core_worker.kill_actor(victim, True)
            asked.unlink()


class Server:
    """S3 on this machine, which keeps what it holds while it is away."""

    def __init__(self) -> None:
        self.port = 0
        self.start()
        os.environ |= {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": "something",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        self.client = boto3.client("s3")
        self.client.create_bucket(Bucket=BUCKET)

    def start(self) -> None:
        from moto.server import ThreadedMotoServer

        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self._server.start()
        self.port = self._server.get_host_and_port()[1]

    def stop(self) -> None:
        self._server.stop()

    def done(self, name: str) -> int:
        """Parts of a run, which other programs count without s3fs."""
        found = self.client.list_objects_v2(Bucket=BUCKET, Prefix=f"{name}/tables/{TABLE}/")
        return int(found["KeyCount"])


def patient(start):
    """What `start` starts, tried three times: a busy machine takes longer than Ray waits."""
    for _ in range(2):
        try:
            return start()
        except Exception as error:  # Ray raises a bare one
            say(f"tried again: {str(error)[:60]}")
    return start()


class Machines:
    """A head without cores and three nodes with one each: for two workers and the classifier."""

    def __init__(self) -> None:
        # Workers that nobody asked for would start whenever a raylet does.
        os.environ |= {"RAY_enable_worker_prestart": "0", "RAY_prestart_worker_first_driver": "0"}
        import ray._private.utils as utils
        from ray.cluster_utils import Cluster

        # A raylet gives its dashboard's agent 15 s, in which a busy machine starts the small one.
        utils.get_dashboard_dependency_error = lambda: ImportError("no dashboard is wanted")
        self._small = {"object_store_memory": 80 * 1024 * 1024, "include_dashboard": False}
        self._cluster = patient(
            lambda: Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **self._small})
        )
        self._nodes = [self._add() for _ in range(3)]
        os.environ["RAY_ADDRESS"] = self._cluster.address

    def _add(self):
        return patient(lambda: self._cluster.add_node(num_cpus=1, **self._small))

    def replace(self, which: int) -> None:
        """Kill a raylet, and bring up a new one."""
        self._cluster.remove_node(self._nodes.pop(which % len(self._nodes)), allow_graceful=False)
        self._nodes.append(self._add())

    def processes(self, kind: str) -> list[psutil.Process]:
        """The processes of workers, or of the classifier, of these raylets only."""
        actor = "ray::ClassifierActor" if kind == "classifier" else "ray::Host"
        found = []
        for node in self._nodes:
            raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
            for child in raylet.children(recursive=True):
                try:
                    title = " ".join(child.cmdline())
                except psutil.Error:
                    continue
                if title.startswith(actor):
                    found.append(child)
        return found

    def shutdown(self) -> None:
        self._cluster.shutdown()


class Driver:
    """A run's driver, started again where it was killed."""

    def __init__(self, name: str, count: int, folder: Path) -> None:
        self.name, self.count, self.folder = name, count, folder
        self.folder.mkdir()
        self.unasked = 0
        self.start()

    @property
    def url(self) -> str:
        return f"s3://{BUCKET}/{self.name}"

    def start(self) -> None:
        words = ["--drive", self.url, "--units", str(self.count), "--folder", str(self.folder)]
        with open(self.folder / "log", "a") as log:
            self.process = subprocess.Popen(
                [sys.executable, __file__, *words], stdout=log, stderr=subprocess.STDOUT
            )

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def ended(self) -> bool:
        """Whether the job is over; a driver that gave up is started again, and counted."""
        if self.process.poll() is None:
            return False
        if self.process.returncode == 0:
            return True
        self.unasked += 1
        log = (self.folder / "log").read_text()
        if self.unasked > 5:
            raise SystemExit(log[-3000:])
        say(f"the driver gave up: {log.strip().splitlines()[-1][:300]}")
        self.start()
        return False

    def begun(self) -> list[tuple[float, str]]:
        """When which unit was begun, from the first to the last."""
        journal = self.folder / "journal"
        lines = [line.split() for line in journal.read_text().splitlines()]
        return sorted((float(moment), unit) for moment, unit in lines)


def disturb(server: Server, machines: Machines, driver: Driver, rng, plan) -> list:
    """Kill what the plan says, each when so many units are done; (moment, kind) of every kill."""
    kills = []
    for threshold, kind in plan:
        while server.done(driver.name) < threshold:
            if driver.ended():
                return kills
            time.sleep(0.1)
        if kind in ("worker", "actor", "classifier"):
            while not (there := machines.processes(kind)):
                if driver.ended():
                    return kills
                time.sleep(0.1)
        kills.append((time.time(), kind))
        say(f"{threshold:4d} units done: {kind}")
        if kind in ("worker", "classifier"):
            there[rng.integers(len(there))].kill()
        elif kind == "actor":
            asked = driver.folder / "kill-actor"
            asked.touch()
            while asked.exists() and not driver.ended():
                time.sleep(0.05)
        elif kind == "raylet":
            machines.replace(int(rng.integers(3)))
        elif kind == "driver":
            driver.kill()
            driver.start()
        else:
            server.stop()
            time.sleep(AWAY)
            server.start()
    return kills


def rows_of(url: str) -> list[dict]:
    rows = Run.open(url).table(TABLE).read().to_pylist()
    return sorted(rows, key=lambda row: row["id"])


def alike(expected: list[dict], rows: list[dict]) -> bool:
    """Whether all is the same, and the losses to 1e-5: how many are asked at once rounds them."""
    losses = [np.array([row.pop("loss") for row in some]) for some in (expected, rows)]
    return rows == expected and np.allclose(*losses, rtol=0, atol=1e-5)


def again(begun, kills) -> list[int]:
    """How many units were begun again after each kill and before the next one."""
    seen, counts = set(), [0] * len(kills)
    moments = [moment for moment, _ in kills]
    for moment, unit in begun:
        if unit in seen:
            counts[max(int(np.searchsorted(moments, moment)) - 1, 0)] += 1
        seen.add(unit)
    return counts


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--units", type=int, default=UNITS)
    parser.add_argument("--kills", type=int, default=sum(KINDS.values()))
    parser.add_argument("--drive", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.drive:
        drive(given.drive, given.units, given.folder)
        return 0
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request
    rng = np.random.default_rng(given.seed)
    kinds = rng.permutation([kind for kind, count in KINDS.items() for _ in range(count)])
    thresholds = np.sort(rng.choice(np.arange(2, given.units - 4), given.kills, replace=False))
    plan = list(zip(thresholds.tolist(), kinds[: given.kills].tolist(), strict=True))
    began = time.time()
    server, machines = Server(), Machines()
    try:
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            undisturbed = Driver("undisturbed", given.units, Path(folder, "undisturbed"))
            while not undisturbed.ended():
                time.sleep(0.2)
            quiet = time.time() - began
            say(f"undisturbed: {quiet:.0f} s")
            driver = Driver("killed", given.units, Path(folder, "killed"))
            kills = disturb(server, machines, driver, rng, plan)
            while not driver.ended():
                if time.time() - began > PATIENCE:
                    driver.kill()
                    break
                time.sleep(0.2)
            expected, rows = rows_of(undisturbed.url), rows_of(driver.url)
            counts = Counter(row["id"] for row in rows)
            redone = again(driver.begun(), kills)
            run = Run.open(driver.url)
            record = run.record()
    finally:
        machines.shutdown()
        server.stop()
    by_kind = {
        kind: {
            "kills": sum(one == kind for _, one in kills),
            "redone": sum(n for n, (_, one) in zip(redone, kills, strict=True) if one == kind),
        }
        for kind in KINDS
    }
    figures = {
        "kills": len(kills),
        "lost": sum(not any(counts[i] for i in unit.tasks) for unit in units(given.units)),
        "duplicated": sum(any(counts[i] > 1 for i in unit.tasks) for unit in units(given.units)),
        "equal": alike(expected, rows),
        "redone_per_kill": round(sum(redone) / max(len(kills), 1), 3),
        "redone_at_most": max(redone, default=0),
        "by_kind": by_kind,
        "state": record["state"],
        "drivers_that_gave_up": driver.unasked,
        "seconds": round(time.time() - began),
        "seed": given.seed,
    }
    print(json.dumps(figures))
    whole = figures["equal"] and not figures["lost"] and not figures["duplicated"]
    return 0 if whole and figures["redone_per_kill"] <= 1 else 1


if __name__ == "__main__":
    sys.exit(main())
