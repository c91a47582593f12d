"""`whylens search`, with an index and without, on features that are made up."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from whylens.classifiers import load_classifier
from whylens.errors import UsageError
from whylens.jobs.cli import main
from whylens.jobs.people.search import Question, search

made = runpy.run_path(str(Path(__file__).parents[1] / "embedded_run.py"))
built, COUNT, CLASSIFIER = made["indexed"], made["COUNT"], made["CLASSIFIER"]


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


@pytest.mark.parametrize("indexed", [False, True])
def test_a_components_images_are_found_with_or_without_an_index(source, tmp_path, indexed):
    run, features, labels, found = source
    folder = (built(run, tmp_path, shard=120) if indexed else run).folder
    alphas = found.alphas(features)[:, 2]
    for limit, rows in (
        ({}, np.arange(COUNT)),
        ({"among_class": True}, np.flatnonzero(labels == 1)),
        ({"without_class": True}, np.flatnonzero(labels != 1)),
    ):
        answer = search(folder, Question(class_name="1", component=2, count=7, **limit))
        expected = rows[np.argsort(-alphas[rows])[:7]]
        assert [image.id for image in answer.images] == [f"main-{row}" for row in expected]
        np.testing.assert_allclose([i.value for i in answer.images], alphas[expected], atol=1e-3)


def test_the_command_prints_json_or_a_table(source, capsys, classifier):
    run, features, labels, _ = source
    main_(["search", run.folder, "--neuron", "3", "--count", "2", "--json"])
    answer = json.loads(capsys.readouterr().out)
    best = int(np.argmax(features[:, 3]))
    first = answer["images"][0]
    assert (first["id"], first["label"]) == (f"main-{best}", classifier.class_names[labels[best]])
    assert first["value"] == pytest.approx(features[best, 3])
    main_(["search", run.folder, "--like", "second-4", "--collection", "second", "--count", "3"])
    shown = capsys.readouterr().out
    assert "near second-4 in phi" in shown
    assert "second-" in shown.replace("near second-4", "")


def main_(words):
    """The command, which leaves by an exit code."""
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert not stop.value.code


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({}, "one of --class X --component L, --neuron N, and --like"),
        ({"neuron": 1, "like": "a"}, "one of"),
        ({"component": 1}, "--component needs the class"),
        ({"neuron": 1, "among_class": True}, "--among-class needs the class"),
        ({"neuron": 1, "class_name": "1", "of_class": True}, "with --like"),
        ({"neuron": 1, "class_name": "1", "among_class": True, "without_class": True}, "no image"),
    ],
)
def test_a_question_that_says_too_little_or_too_much_is_refused(question, message):
    with pytest.raises(UsageError, match=message):
        Question(**question)


def test_what_the_run_lacks_is_named(source, classifier):
    run, *_ = source
    with pytest.raises(
        UsageError, match=f"no components of the class '{classifier.class_names[0]}'"
    ):
        search(run.folder, Question(class_name="0", component=0))
    with pytest.raises(UsageError, match="nobody"):
        search(run.folder, Question(like="nobody"))
    with pytest.raises(UsageError, match="6 components"):
        search(run.folder, Question(class_name="1", component=6))
