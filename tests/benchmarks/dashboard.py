"""The dashboard on a run of ImageNet's size: how long a person waits, and what the server holds.

    python tests/benchmarks/dashboard.py                 # 1,000 classes: minutes to make, 1 GB
    python tests/benchmarks/dashboard.py --classes 100 --generated 5000 --sessions 5

The run is made up: 20 components a class, all of them findings, each with 5 exemplars and heat maps
in a part of its own, as the job writes them; generated images, 16 a part; 50,000 embedded images.
Sessions speak Streamlit's own protocol over WebSockets, as browsers do, and wait until the script
has run and all that it sends is there; drawing in the browser comes on top of that. As its last
line it prints JSON:

start_s         seconds from the command to a server that answers
first_page_s    and from there to the overview, which may say "…" for what is still being counted
whole_page_s    and from there to the overview with all that was counted
next_p50_s      median seconds from one component's page to the next, one session
next_p95_s      and its 95th percentile
label_s         seconds from a label's writing to the page that shows it, median
many_p50_s      median seconds of a click of sessions that look before they click: LOOK
many_p95_s      and its 95th percentile
flat_out_p50_s  median seconds of a click of as many sessions that click again at once, as none does
rss_mb          the server's resident memory, megabytes, at the most
growth_mb       how much it rose in the second half of the clicking
errors          messages that say that something went wrong
cpu_share       of the first page's seconds, the part that the server calculated
load            processes that ran or waited to run on the machine in the minute before
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.util import calc_hash
from websockets.sync.client import connect

from whylens.dashboard.launch import command
from whylens.jobs.findings.stored import write_components
from whylens.jobs.people.labels import Named, add_label
from whylens.neural_pca import ClassComponents
from whylens.runs import Run

COMPONENTS, EXEMPLARS, A_PART = 20, 5, 16
# Mean seconds that a person looks at a component, exponentially distributed as of people who don't
# know of each other. Who labels a hundred in ten minutes looks twice as long.
LOOK = 3.0


def pictures(count: int = 64) -> list[bytes]:
    """Noise that a codec makes as large as photographs at 224 pixels are."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        small = rng.integers(0, 255, (28, 28, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(small).resize((224, 224)).save(buffer, "WEBP", quality=80)
        made.append(buffer.getvalue())
    return made


def build(folder: Path, classes: int, generated: int, images: int = 50_000) -> None:
    """The run, on the disk."""
    some, rng = pictures(), np.random.default_rng(1)

    def write(table: str, unit: str, columns: dict[str, object]) -> None:
        path = folder / "tables" / table / f"{unit}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path, compression="zstd")

    folder.mkdir(parents=True)
    record = {
        "format": 1, "job": "investigate", "state": "finished", "created": "2026-11-28T00:00:00Z",
        "spec": {"classifier": "timm:x", "images": "folder", "sampler": "x"}, "versions": {},
        "timings": {"embed": 3600.0, "components": 900.0}, "warnings": [],
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record))
    names = [f"class number {k}" for k in range(classes)]
    total = classes * COMPONENTS
    suspicion = np.sort(rng.beta(1, 6, total))[::-1]
    order = rng.permutation(total)
    k_of, c_of = order // COMPONENTS, order % COMPONENTS
    write("findings", "all", {
        "rank": np.arange(1, total + 1, dtype=np.int32), "class_index": k_of.astype(np.int32),
        "class_name": [names[k] for k in k_of], "component": c_of.astype(np.int32),
        "suspicion": suspicion, "suspicious": suspicion > 0.4, "sufficiency_share": suspicion,
        "sufficiency_mean_p": suspicion * 0.9, "lift": suspicion * 20,
        "variance_share": suspicion / 3, "logit_share": suspicion / 2,
        "guess": [["water"] if k % 2 else [] for k in k_of], "truth": pa.nulls(total, pa.string()),
        "mined_ids": [[f"image-{i}" for i in range(120)]] * total,
    })  # fmt: skip
    by_key = np.empty(total)
    by_key[order] = suspicion
    for k in range(classes):
        mine = by_key[k * COMPONENTS : (k + 1) * COMPONENTS]
        write("components", f"class-{k:06d}", {
            "class_index": np.full(COMPONENTS, k, np.int32), "class_name": [names[k]] * COMPONENTS,
            "component": np.arange(COMPONENTS, dtype=np.int32), "suspicion": mine,
            "images": np.full(COMPONENTS, 50, np.int32),
            "sufficiency_share": mine, "sufficiency_mean_p": mine, "same_as": [None] * COMPONENTS,
            "mined_ids": [[f"image-{i}" for i in range(120)]] * COMPONENTS,
            "words": [["water"]] * COMPONENTS,
        })  # fmt: skip
    flat = np.linalg.qr(rng.normal(size=(256, COMPONENTS)))[0].T.astype(np.float32)
    for k in range(classes):
        ones = np.ones(256, np.float32)
        found = ClassComponents(k, 50, flat, np.ones(COMPONENTS), 30.0, ones, ones, 0.0)
        write_components(Run(str(folder)), found, "made up")
    write("verdicts", "all", {
        "class_index": np.arange(total, dtype=np.int32) // COMPONENTS,
        "component": np.arange(total, dtype=np.int32) % COMPONENTS, "q_value": 1 - by_key,
        "suspicious": by_key > 0.4,
    })  # fmt: skip
    for place in range(total):
        shown = [some[i] for i in rng.integers(0, len(some), EXEMPLARS)]
        write("exemplars", f"finding-{place + 1:05d}", {
            "class_index": np.full(EXEMPLARS, k_of[place], np.int32),
            "component": np.full(EXEMPLARS, c_of[place], np.int32),
            "place": np.arange(EXEMPLARS, dtype=np.int32),
            "image_id": [f"image-{place}-{i}" for i in range(EXEMPLARS)],
            "alpha": rng.random(EXEMPLARS, np.float32),
            "p_class": rng.random(EXEMPLARS, np.float32),
            "heatmap": pa.array(shown, pa.binary()), "thumb": pa.array(shown, pa.binary()),
        })  # fmt: skip
    for start in range(0, generated, A_PART):
        places = [(start + i) % total for i in range(A_PART)]
        shown = pa.array([some[i] for i in rng.integers(0, len(some), A_PART)], pa.binary())
        write("generated", f"0a1b2c3d-{start // A_PART:05d}", {
            "class_index": k_of[places].astype(np.int32),
            "component": c_of[places].astype(np.int32), "kind": ["component"] * A_PART,
            "image": shown, "start_image": shown, "p_class": rng.random(A_PART, np.float32),
            "p_start": rng.random(A_PART, np.float32), "prompt": ["a photo"] * A_PART,
            "seed": np.arange(A_PART, dtype=np.int64), "failed": pa.nulls(A_PART, pa.string()),
        })  # fmt: skip
    for start in range(0, images, 256):
        count = min(256, images - start)
        labels = np.arange(start, start + count) * classes // images  # by class, as in folders
        write("images", f"{start:09d}", {
            "id": [f"image-{start + i}" for i in range(count)], "label": labels.astype(np.int32),
            "class_name": [names[k] for k in labels], "collection": ["main"] * count,
            "top5_classes": [[int(k), 0] for k in labels], "caption": [""] * count,
            "thumb": pa.array([some[i % len(some)] for i in range(count)], pa.binary()),
            "features": pa.FixedSizeListArray.from_arrays(
                pa.array(np.zeros(count * 256, np.float16)), 256
            ),
        })  # fmt: skip


class Session:
    """One person's session: pages are asked for by their URL, and awaited whole."""

    def __init__(self, port: int) -> None:
        self.socket = connect(
            f"ws://localhost:{port}/_stcore/stream", max_size=None,
            origin=f"http://localhost:{port}", subprotocols=["streamlit"],
        )  # fmt: skip
        self.errors = 0
        self.counting = False

    def visit(self, page: str, **query: str) -> float:
        """Seconds until the page is there; `counting`: whether something on it is to come yet."""
        began, self.counting = time.monotonic(), False
        message = BackMsg()
        message.rerun_script.query_string = urlencode(query)
        message.rerun_script.page_script_hash = calc_hash(page)
        message.rerun_script.page_name = page
        self.socket.send(message.SerializeToString())
        while True:
            got = ForwardMsg()
            got.ParseFromString(self.socket.recv(timeout=300))
            kind = got.WhichOneof("type")
            if kind == "delta" and got.delta.WhichOneof("type") == "new_element":
                element = got.delta.new_element
                alert = element.WhichOneof("type") == "alert" and element.alert.format == 1
                self.errors += alert or element.WhichOneof("type") == "exception"
                self.counting |= element.markdown.body.startswith("Still being read")
            if kind == "script_finished":
                return time.monotonic() - began


@contextmanager
def served(folder: Path) -> Iterator[tuple[int, psutil.Process, float]]:
    """The dashboard on a free port, its process, and the seconds until it answered."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    began = time.monotonic()
    server = subprocess.Popen(command(str(folder), port=port), stdout=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://localhost:{port}/_stcore/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.05)
        yield port, psutil.Process(server.pid), time.monotonic() - began
    finally:
        server.terminate()
        server.wait(timeout=60)


def measure(
    folder: Path, classes: int, clicks: int, sessions: int, seconds: float
) -> dict[str, float]:
    """All that the last line says."""
    rng, load = random.Random(2), os.getloadavg()[0]

    def component() -> dict[str, str]:
        return {"component": f"{rng.randrange(classes)}-{rng.randrange(COMPONENTS)}"}

    with served(folder) as (port, process, start):
        cpu = process.cpu_times()
        first = Session(port)
        began = time.monotonic()
        first_page = first.visit("overview")
        after = process.cpu_times()
        share = (after.user + after.system - cpu.user - cpu.system) / first_page
        while first.counting:
            time.sleep(1.0)
            first.visit("overview")
        whole_page = time.monotonic() - began
        print(f"first page {first_page:.2f} s, {share:.0%} of it calculating", flush=True)
        nexts = [first.visit("components", **component()) for _ in range(clicks)]
        print(f"next {statistics.median(nexts):.3f} s; {max(nexts):.2f} at the most", flush=True)
        labels = []
        for place in range(5):
            began = time.monotonic()
            add_label(str(folder), Named(place, "", 0), "spurious", f"person {place}")
            first.visit("components", component=f"{place}-0")
            labels.append(time.monotonic() - began)
        peak = [process.memory_info().rss]
        errors = [0]

        def clicking(look: float) -> list[float]:
            """Seconds of each click of all sessions, which look for `look` seconds in between."""
            clicks: list[float] = []
            stop = time.monotonic() + seconds

            def click() -> None:
                session = Session(port)
                while time.monotonic() < stop:
                    time.sleep(rng.expovariate(1 / look) if look else 0.0)
                    clicks.append(session.visit("components", **component()))
                    peak.append(process.memory_info().rss)
                errors[0] += session.errors

            people = [threading.Thread(target=click) for _ in range(sessions)]
            for person in people:
                person.start()
            for person in people:
                person.join()
            return clicks or [0.0]

        many = clicking(LOOK)
        print(f"many {statistics.median(many):.3f} s, of {len(many)} clicks", flush=True)
        flat_out = clicking(0.0)
    half = len(peak) // 2
    return {
        "start_s": round(start, 2),
        "first_page_s": round(first_page, 3),
        "whole_page_s": round(whole_page, 2),
        "next_p50_s": round(statistics.median(nexts), 3),
        "next_p95_s": round(float(np.quantile(nexts, 0.95)), 3),
        "label_s": round(statistics.median(labels), 3),
        "many_p50_s": round(statistics.median(many), 3),
        "many_p95_s": round(float(np.quantile(many, 0.95)), 3),
        "flat_out_p50_s": round(statistics.median(flat_out), 3),
        "rss_mb": round(max(peak) / 2**20),
        "growth_mb": round((max(peak[half:]) - max(peak[:half] or peak)) / 2**20),
        "errors": first.errors + errors[0],
        "cpu_share": round(share, 2),
        "load": round(load, 1),
    }


def main() -> None:
    """Make the run, serve it, click."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--generated", type=int, default=50_000)
    parser.add_argument("--clicks", type=int, default=50)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--run", type=Path, help="Where the run is, or is made and kept.")
    asked = parser.parse_args()
    made = None if asked.run else Path(tempfile.mkdtemp())
    folder = asked.run or made / "run"
    try:
        if not (folder / "run.json").exists():
            began = time.monotonic()
            build(folder, asked.classes, asked.generated)
            print(f"the run was made in {time.monotonic() - began:.0f} s", flush=True)
        found = measure(folder, asked.classes, asked.clicks, asked.sessions, asked.seconds)
        print(json.dumps(found))
    finally:
        if made:
            shutil.rmtree(made)


if __name__ == "__main__":
    main()
