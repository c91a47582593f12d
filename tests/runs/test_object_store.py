"""Run folders on S3 (moto's server): nothing is hidden, everything is one PUT, one of many wins."""

import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from whylens.errors import UsageError
from whylens.images import open_collection
from whylens.images.tensors import to_png
from whylens.runs import Run, Storage
from whylens.runs.lease import Lease


@pytest.fixture(autouse=True)
def cache_on(server, monkeypatch):
    """The listing cache of s3fs is on, as it is by default, and never grows old."""
    monkeypatch.setitem(fsspec.config.conf, "s3", {"use_listings_cache": True})


@pytest.fixture
def calls(monkeypatch) -> list[tuple[str, dict[str, Any]]]:
    """What s3fs asks the server for."""
    kind, asked = fsspec.get_filesystem_class("s3"), []
    whole = kind._call_s3

    async def noted(self, method, *arguments, **options):
        asked.append((method, options))
        return await whole(self, method, *arguments, **options)

    monkeypatch.setattr(kind, "_call_s3", noted)
    return asked


def parquet(rows: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(rows, buffer)
    return buffer.getvalue()


def test_a_part_that_another_process_wrote_after_a_listing_is_there(other):
    # What a plain s3fs says then, so that this test would see a cache:
    plain = fsspec.filesystem("s3")
    other.put_object(Bucket="runs", Key="a/tables/images/0.parquet", Body=parquet(ROWS))
    table = Run("s3://runs/a").table("images")
    assert table.units() == ["0"]
    assert not table.done("1")
    assert len(plain.ls("runs/a/tables/images")) == 1
    other.put_object(Bucket="runs", Key="a/tables/images/1.parquet", Body=parquet(ROWS))
    assert len(plain.ls("runs/a/tables/images")) == 1
    assert table.done("1")
    assert table.units() == ["0", "1"]
    assert table.read(["k"])["k"].to_pylist() == [1, 2, 1, 2]
    other.delete_object(Bucket="runs", Key="a/tables/images/0.parquet")
    assert table.units() == ["1"]
    assert not table.done("0")


def test_a_part_that_was_replaced_by_a_longer_one_is_read_whole(other):
    table = Run("s3://runs/longer").table("images")
    table.write("0", ROWS)
    assert table.units() == ["0"]
    assert len(table.read()) == 2
    longer = pa.table({"k": list(range(5000)), "name": [str(k * 7919) for k in range(5000)]})
    other.put_object(Bucket="runs", Key="longer/tables/images/0.parquet", Body=parquet(longer))
    assert table.read().equals(longer)


ROWS = pa.table({"k": [1, 2], "name": ["one", "two"]})


def test_images_that_were_added_since_a_listing_are_found(other):
    def add(name: str) -> None:
        picture = to_png(np.zeros((8, 8, 3), np.uint8))
        other.put_object(Bucket="runs", Key=f"photos/cat/{name}", Body=picture)

    add("1.png")
    assert [r.id for r in open_collection("s3://runs/photos").records] == ["cat/1.png"]
    add("2.png")
    collection = open_collection("s3://runs/photos")
    assert [r.id for r in collection.records] == ["cat/1.png", "cat/2.png"]
    assert collection.load(collection.records[1]).shape == (8, 8, 3)


def test_a_part_is_one_put_that_asks_nothing_before(other, calls):
    Run("s3://runs/puts").table("images").write("0", ROWS)
    ((method, options),) = calls
    assert method == "put_object"
    assert options["Key"] == "puts/tables/images/0.parquet"
    Run("s3://runs/puts").table("images").write("0", ROWS)
    assert Run("s3://runs/puts").table("images").read().equals(ROWS)


def test_no_more_is_fetched_than_the_columns_and_rows_that_are_asked_for(other, calls):
    def fetched() -> int:
        sizes = [
            1 + last - first
            for _, options in calls
            if "Range" in options
            for first, last in [map(int, options["Range"].removeprefix("bytes=").split("-"))]
        ]
        asked = [method for method, _ in calls]
        assert asked.count("get_object") == len(sizes)  # never a whole file
        assert len(asked) <= 10  # its size, its footer, and what lies together
        calls.clear()
        return sum(sizes)

    blobs = [np.random.default_rng(i).bytes(50_000) for i in range(64)]
    table = Run("s3://runs/ranges").table("thumbnails")
    names = [f"n{k:02d}" for k in range(64)]
    table.write("0", pa.table({"id": names, "blob": blobs}), group=8)
    calls.clear()
    assert table.read_part("0", ["id"])["id"].to_pylist() == names
    assert fetched() < 80_000  # 64 kB of it is how pyarrow looks for the footer
    two = table.read_rows("0", "id", ["n09", "n11"], ["id", "blob"])
    assert two.to_pydict() == {"id": ["n09", "n11"], "blob": [blobs[9], blobs[11]]}
    assert 400_000 < fetched() < 600_000  # one row group of eight, by what the footer says of ids
    assert table.read_part("0")["blob"].to_pylist() == blobs
    assert fetched() > 3_000_000


def test_of_many_who_create_a_file_one_does(other):
    storages = [Storage("s3://runs/race") for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: storages[n].create("x", b"%d" % n), range(8)))
    assert sum(made) == 1
    assert storages[0].read("x") == b"%d" % made.index(True)


def test_a_file_that_was_created_by_a_request_whose_answer_was_lost_is_ours(other):
    other.put_object(Bucket="runs", Key="lost/x", Body=b"mine")
    assert Storage("s3://runs/lost").create("x", b"mine")
    assert not Storage("s3://runs/lost").create("x", b"yours")


def test_a_second_driver_on_s3_is_told_of_the_first(other):
    code = "import sys; from whylens.runs import Run; Run.start(sys.argv[1], 'embed', {})"
    command = [sys.executable, "-c", code, "s3://runs/leased"]
    with Run.start("s3://runs/leased", "embed", {}).working():
        second = subprocess.run(command, capture_output=True, text=True, check=False)
    told = f"process {os.getpid()} on {socket.gethostname()} works on s3://runs/leased: wait for it"
    assert told in second.stderr
    held = json.loads(
        other.get_object(Bucket="runs", Key="leased/leases/000001.json")["Body"].read()
    )
    assert held["released"]
    Lease(Storage("s3://runs/leased"))


def test_a_bucket_that_is_not_there_is_said_and_not_made(other):
    with pytest.raises(UsageError, match=r"s3://nowhere/run can't be written to .*bucket"):
        Run.start("s3://nowhere/run", "embed", {})
    assert [bucket["Name"] for bucket in other.list_buckets()["Buckets"]] == ["runs"]


def test_a_server_that_is_away_for_a_moment_is_waited_for(server, other):
    storage = Storage("s3://runs/away")
    storage.write("x", b"before")
    server.stop()
    back = threading.Timer(2.0, server.start)
    back.start()
    began = time.monotonic()
    storage.write("x", b"after")
    assert time.monotonic() - began > 1.5
    back.join()
    assert storage.read("x") == b"after"


@pytest.mark.parametrize(
    ("url", "package", "extra"),
    [("s3://b/r", "s3fs", "s3"), ("gs://b/r", "gcsfs", "gcs"), ("abfs://b/r", "adlfs", "azure")],
)
def test_a_store_whose_package_is_missing_is_one_sentence(url, package, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    for name in ("s3", "gs", "abfs"):
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, name, raising=False)
    said = rf"^{url} can't be opened.*: pip install 'whylens\[{extra}\]'$"
    with pytest.raises(UsageError, match=said):
        Run.start(url, "embed", {})
    with pytest.raises(UsageError, match=said):
        open_collection(url)
