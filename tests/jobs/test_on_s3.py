"""A whole job on an object store (moto's S3): images to findings, stopped and resumed."""

import contextlib
from types import SimpleNamespace
from typing import Generic, TypeVar

import pytest

import whylens
from tests.runs.conftest import other, server  # noqa: F401
from whylens.jobs.findings import components, exemplars
from whylens.jobs.images import embed, embedding
from whylens.jobs.report.page import ReportSpec
from whylens.jobs.report.page import run as report
from whylens.runs import Run

Unit = TypeVar("Unit")
PLACEMENT = {"workers": [1, 1], "num_gpus": 0}
EMBED = {"images": "planted:linked?count=90&seed=7", "classifier": "planted:biased", "unit": 30}
FOUND = {"top": 2, "mined": 4, "min_images": 4}
SHOWN = {"findings": 1, "at_least": 1, "exemplars": 1}


class Inline(Generic[Unit]):
    """A pool whose one worker is this process."""

    def __init__(self, make, arguments, placement):
        self.make, self.arguments = make, arguments

    def map(self, units):
        worker = self.make(*self.arguments)
        for unit in units:
            yield unit, worker(unit)


@pytest.fixture(autouse=True)
def _here(monkeypatch, other):  # noqa: F811
    monkeypatch.setattr("whylens.cluster.pool.WorkerPool", Inline)
    ray = SimpleNamespace(nodes=list)
    monkeypatch.setattr("whylens.cluster.session.session", lambda: contextlib.nullcontext(ray))


def investigated(bucket):
    """The three jobs one after the other, each in a folder of its own; their runs."""
    place = {"placement": PLACEMENT}
    first = embed.run(embed.EmbedSpec(out=f"{bucket}/embed", **EMBED, **place))
    spec = {"out": f"{bucket}/components", "source": first.folder, "components": FOUND, **place}
    second = components.run(components.ComponentsSpec(**spec))
    spec = {"out": f"{bucket}/exemplars", "source": second.folder, "exemplars": SHOWN, **place}
    third = exemplars.run(exemplars.ExemplarsSpec(**spec, visualisations=None))
    return first, second, third


def test_a_job_on_a_bucket_is_resumed_and_read_from_there(monkeypatch, other):  # noqa: F811
    embed_one, done = embedding.Embedder.__call__, []

    def stopped(self, decoded):
        unit = decoded.schema.metadata[b"unit"].decode()
        done.append(unit)
        if done == ["main-000000", "main-000001"]:
            raise KeyboardInterrupt
        return embed_one(self, decoded)

    monkeypatch.setattr(embedding.Embedder, "__call__", stopped)
    with pytest.raises(KeyboardInterrupt):
        investigated("s3://runs/stopped")
    assert Run.open("s3://runs/stopped/embed").record()["state"] == "stopped"
    runs = investigated("s3://runs/stopped")
    assert done == ["main-000000", "main-000001", "main-000001", "main-000002"]
    assert [run.record()["state"] for run in runs] == ["finished"] * 3
    opened = whylens.open_run(runs[2].folder)
    assert len(opened.images()) == 90
    (finding,) = opened.findings().to_dict("records")
    whole = whylens.open_run(investigated("s3://runs/whole")[2].folder)
    assert opened.components().equals(whole.components())
    assert opened.findings().equals(whole.findings())
    assert report(ReportSpec(run=runs[2].folder)) == "s3://runs/stopped/exemplars/report.html"
    page = other.get_object(Bucket="runs", Key="stopped/exemplars/report.html")["Body"].read()
    assert finding["class_name"] in page.decode()
    # Of the second start, which had all, nothing was written again.
    parts = {
        item["Key"]: item["LastModified"]
        for item in other.list_objects_v2(Bucket="runs", Prefix="stopped/")["Contents"]
        if "/tables/" in item["Key"]
    }
    assert len(parts) > 10
    investigated("s3://runs/stopped")
    again = other.list_objects_v2(Bucket="runs", Prefix="stopped/")["Contents"]
    assert parts == {i["Key"]: i["LastModified"] for i in again if "/tables/" in i["Key"]}
