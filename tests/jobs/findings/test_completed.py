"""A run that was incomplete and is completed later ends with the findings of one that never was."""

import os
import shutil
from pathlib import Path

import pytest

from whylens.classifiers import load_classifier
from whylens.cluster.placement import Placement
from whylens.images import match_classes, open_collection, units
from whylens.jobs.findings import components, exemplars, finder, visualisations
from whylens.jobs.images.embedding import Embedder, ImageUnit, decode
from whylens.runs import Run
from whylens.runs.lineage import Lineage

IMAGES, CLASSIFIER = "planted:linked?count=120&seed=7", "planted:biased"
SPEC = {"classifier": CLASSIFIER, "images": IMAGES, "tolerate": 1.0, "retries": 0}
TABLES = ("components", "verdicts", "exemplars", "mined", "visualisations", "findings")


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    """A run of planted drawings in three parts, of which nothing was found yet."""
    run = Run.start(str(tmp_path_factory.mktemp("runs") / "embedded"), "investigate", SPEC)
    collection, classifier = open_collection(IMAGES), load_classifier(CLASSIFIER)
    classes = match_classes(collection.records.class_names(), classifier.class_names)
    worker = Embedder(run, classes, "main", CLASSIFIER, "cpu", 64)
    for name, part in units(len(collection), 40):
        unit = ImageUnit(f"main-{name}", collection, part)
        worker(decode(unit, classifier.eval_transform))
    return run


@pytest.fixture(scope="module")
def find(embedded, in_process):
    """Looks for findings in a copy of what was embedded, or goes on with it."""

    def found(folder):
        if not folder.exists():
            shutil.copytree(embedded.folder, folder)
        run = Run.start(str(folder), "investigate", SPEC)
        settings = components.ComponentSettings(top=4, mined=6, min_images=4)
        components.components(run, Lineage(run), settings, Placement())
        shown = exemplars.ExemplarSettings(findings=4, at_least=4, exemplars=2)
        visualised = visualisations.VisualisationSpec(steps=1, batch=2)
        exemplars.exemplars(run, Lineage(run), shown, visualised, Placement())
        run.finish()
        return run

    with pytest.MonkeyPatch.context() as patch:
        for module in (components, exemplars, visualisations):
            patch.setattr(module, "work_through", in_process)
        yield found


@pytest.fixture(scope="module")
def whole(find, tmp_path_factory):
    """An undisturbed run."""
    return find(tmp_path_factory.mktemp("runs") / "whole")


def contents(run):
    """The rows of each part of each table."""
    tables = [run.table(name) for name in TABLES]
    return {(t.name, part): t.read_part(part).to_pylist() for t in tables for part in t.units()}


def writings(run, *tables):
    """When each part was written."""
    return {
        (table, part): os.stat(run.storage.path(f"tables/{table}/{part}.parquet")).st_mtime_ns
        for table in tables
        for part in run.table(table).units()
    }


def test_a_class_that_failed_once_is_among_the_findings_as_if_it_had_not(
    find, whole, tmp_path, monkeypatch
):
    best, *others = (row["class_index"] for row in whole.table("findings").read().to_pylist())
    judge = finder.ComponentFinder._judged

    def judged(self, found, *seen):
        if found.class_index == best:
            raise ValueError("of no use")
        return judge(self, found, *seen)

    with monkeypatch.context() as patch:
        patch.setattr(finder.ComponentFinder, "_judged", judged)
        run = find(tmp_path / "broken")
    assert run.record()["state"] == "incomplete"
    before = {row["class_index"] for row in run.table("findings").read().to_pylist()}
    assert best not in before
    assert before >= set(others) - {best}
    done = writings(run, "components", "exemplars", "mined")
    assert find(tmp_path / "broken").record()["state"] == "finished"
    assert contents(run) == contents(whole)
    # What holds as well in the whole run was not done again.
    after = writings(run, "components", "exemplars", "mined")
    assert {part: time for part, time in done.items() if part in after}.items() <= after.items()
    assert len(done.keys() & after.keys()) > 12
    assert done.keys() - after.keys()


def test_images_that_failed_once_count_for_every_class(find, embedded, whole, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(embedded.folder, broken)
    *_, lost = (broken / "tables" / "images").iterdir()
    os.unlink(lost)
    run = find(broken)
    assert max(row["images"] for row in run.table("components").read(["images"]).to_pylist()) < 12
    shutil.copy(embedded.storage.path(f"tables/images/{lost.name}"), lost)
    find(broken)
    assert contents(run) == contents(whole)


def test_what_is_finished_is_not_written_again(find, whole):
    done = writings(whole, *TABLES)
    find(Path(whole.folder))
    assert writings(whole, *TABLES) == done
