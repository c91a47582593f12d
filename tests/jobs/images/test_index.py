"""The index job, on features that are made up: no image is read."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from whylens.classifiers import load_classifier
from whylens.cluster.placement import Resources
from whylens.errors import UsageError, WhylensError
from whylens.jobs.images.index import (
    TABLE,
    IndexSettings,
    index,
    index_of,
    open_index,
    shards,
)
from whylens.runs import Run
from whylens.runs.lineage import Lineage

made = runpy.run_path(str(Path(__file__).parents[1] / "embedded_run.py"))
built, COUNT, CLASSIFIER = made["indexed"], made["COUNT"], made["CLASSIFIER"]
features_of, write_images = made["features_of"], made["write_images"]


@pytest.fixture(scope="module")
def classifier():
    return load_classifier(CLASSIFIER)


@pytest.fixture
def source(tmp_path, classifier):
    return made["embedded"](tmp_path, classifier)


@pytest.fixture(autouse=True)
def _here(monkeypatch, in_process):
    """Workers in this process."""
    monkeypatch.setattr("whylens.jobs.images.index.work_through", in_process)


def test_shards_are_whole_parts_of_one_collection(source):
    run, *_ = source
    units = shards(Lineage(run), size=120)
    assert [(unit.name, len(unit.parts)) for unit in units] == [
        ("main-00000", 3),
        ("main-00001", 3),
        ("second-00000", 2),
    ]


@pytest.mark.parametrize("factory", ["Flat", "IVF4,SQfp16"])
def test_the_index_on_disk_answers_for_the_whole_collection(source, tmp_path, classifier, factory):
    run, features, _, found = source
    index_run = built(run, tmp_path, factory=factory, shard=120, recall=1.0)
    opened = open_index(Lineage(index_run), "main", classifier)
    assert len(opened.shards) == 2
    assert opened.ids == tuple(f"main-{row}" for row in range(COUNT))
    _, rows = opened.search(found.directions, 5)
    expected = np.argsort(-(found.directions @ features.T), axis=1)[:, :5]
    if factory == "Flat":
        np.testing.assert_array_equal(rows, expected)
    else:
        assert np.mean([len({*a} & {*b}) for a, b in zip(rows, expected, strict=True)]) > 4.5
    assert len(open_index(Lineage(index_run), "second", classifier).ids) == 70
    assert open_index(Lineage(index_run), "third", classifier) is None
    assert open_index(Lineage(run), "main", classifier) is None
    told = index_run.table(TABLE).read().to_pylist()
    assert [row["rows"] for row in told] == [150, 150, 70]
    assert all(row["factory"] == factory and row["size_mb"] > 0 for row in told)


def test_a_shard_that_is_there_is_not_built_again(source, tmp_path):
    run, *_ = source
    index_run = built(run, tmp_path, shard=120)
    folder = tmp_path / "index"
    (folder / "tables/index/main-00001.parquet").unlink()
    before = {path: path.stat().st_mtime_ns for path in (folder / "index").iterdir()}
    assert built(run, tmp_path, shard=120).table(TABLE).units() == index_run.table(TABLE).units()
    changed = {p.name for p, when in before.items() if p.stat().st_mtime_ns != when}
    assert changed == {"shard-main-00001.faiss", "shard-main-00001.json"}


def test_an_index_with_a_missing_shard_is_not_finished(source, tmp_path, monkeypatch, classifier):
    run, *_ = source
    monkeypatch.setattr("whylens.jobs.images.index.work_through", lambda *_: None)
    with pytest.raises(WhylensError, match="3 of 3 shards could not be built"):
        built(run, tmp_path, shard=120)


def test_an_index_that_is_a_stage_is_taken_while_its_run_goes_on(source, classifier):
    run, features, _, found = source
    index(run, Lineage(run), IndexSettings(shard=120), Resources())
    assert run.record()["state"] == "running"
    assert index_of(Lineage(run), "main", classifier).shards
    Path(run.folder, "tables/index/main-00001.parquet").unlink()
    index(run, Lineage(run), IndexSettings(shard=120), Resources())
    _, rows = open_index(Lineage(run), "main", classifier).search(found.directions, 5)
    np.testing.assert_array_equal(rows, np.argsort(-(found.directions @ features.T), 1)[:, :5])


def test_images_that_come_later_are_trained_on_and_searched_too(source, tmp_path, classifier):
    run, _, _, found = source
    part = Path(run.folder, "tables/images/main-000050.parquet")
    part.rename(tmp_path / part.name)
    index(run, Lineage(run), IndexSettings(shard=120), Resources())
    (tmp_path / part.name).rename(part)
    index(run, Lineage(run), IndexSettings(shard=120), Resources())
    whole = built(run, tmp_path, shard=120)
    assert run.table(TABLE).read().equals(whole.table(TABLE).read())
    seen, expected = (
        open_index(Lineage(one), "main", classifier).search(found.directions, 5)
        for one in (run, whole)
    )
    np.testing.assert_array_equal(seen, expected)


def test_an_index_of_another_classifier_is_refused(source, tmp_path, classifier):
    run, *_ = source
    index_run = built(run, tmp_path)
    other = load_classifier("planted:balanced")
    with pytest.raises(UsageError, match=rf"{classifier.fingerprint}.*{other.fingerprint}"):
        open_index(Lineage(index_run), "main", other)


def test_a_kind_that_so_few_images_can_not_train_is_refused_before_any_shard(source, tmp_path):
    run, *_ = source
    with pytest.raises(UsageError, match=r"IVF4096,Flat.*300 images"):
        built(run, tmp_path, factory="IVF4096,Flat")
    with pytest.raises(UsageError, match="nonsense"):
        built(run, tmp_path / "other", factory="nonsense")
    assert not Run.open(str(tmp_path / "index")).table(TABLE).units()


def test_an_image_with_nan_is_named_and_no_shard_is_written(tmp_path, classifier):
    run = Run.start(str(tmp_path / "embed"), "embed", {"classifier": CLASSIFIER})
    features, labels = features_of(classifier)
    features[77, 0] = np.nan
    write_images(run, classifier, "main", features, labels)
    with pytest.raises(UsageError, match=r"main-77.*not finite"):
        built(run, tmp_path)
    assert not Run.open(str(tmp_path / "index")).table(TABLE).units()


def test_a_run_without_images_says_what_to_do(tmp_path):
    run = Run.start(str(tmp_path / "embed"), "embed", {"classifier": CLASSIFIER})
    with pytest.raises(UsageError, match="no run has the table 'images'"):
        built(run, tmp_path)
