"""The index job and whylens search, on features that are made up: no image is read."""

import json

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import save

from whylens.classifiers import load_classifier
from whylens.errors import UsageError, WhylensError
from whylens.jobs.cli import main
from whylens.jobs.findings.components import arrays_name
from whylens.jobs.images.index import TABLE, IndexSpec, index, open_index, shards
from whylens.jobs.lineage import Lineage
from whylens.jobs.people.search import Question, search
from whylens.neural_pca import class_components
from whylens.neural_pca.components import to_arrays
from whylens.runs import Run

CLASSIFIER = "planted:biased"
PARTS, EACH = 6, 50
COUNT = PARTS * EACH


@pytest.fixture(scope="module")
def classifier():
    return load_classifier(CLASSIFIER)


def features_of(classifier, count=COUNT, seed=0):
    """float16 features in groups, as embed stores them; labels are the groups."""
    generator = np.random.default_rng(seed)
    classes, size = len(classifier.class_names), classifier.feature_size
    centres = generator.gamma(1.0, 2.0, (classes, size))
    labels = np.arange(count) % classes
    features = centres[labels] + generator.normal(size=(count, size))
    return np.maximum(features, 0).astype(np.float16), labels


def write_images(run, classifier, tag, features, labels):
    weight = classifier.head.weight.detach().numpy()
    logits = features.astype(np.float32) @ weight.T + classifier.head.bias.detach().numpy()
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    top = np.argsort(-p, axis=1)[:, :5]
    for part in range(0, len(features), EACH):
        rows = slice(part, part + EACH)
        run.table("images").write(
            f"{tag}-{part:06d}",
            pa.table(
                {
                    "id": [f"{tag}-{part + place}" for place in range(len(features[rows]))],
                    "label": pa.array(labels[rows], pa.int32()),
                    "class_name": [classifier.class_names[k] for k in labels[rows]],
                    "caption": pa.nulls(len(features[rows]), pa.string()),
                    "features": pa.FixedSizeListArray.from_arrays(
                        pa.array(features[rows].ravel()), features.shape[1]
                    ),
                    "top5_classes": pa.array(list(top[rows]), pa.list_(pa.int32())),
                    "top5_probabilities": pa.array(
                        list(np.take_along_axis(p, top, 1)[rows]), pa.list_(pa.float32())
                    ),
                    "p_label": p[np.arange(len(p)), labels][rows],
                    "collection": [tag] * len(features[rows]),
                }
            ),
        )


@pytest.fixture
def source(tmp_path, classifier):
    """(an embed run of two collections with components of class 1, the main features, labels)."""
    run = Run.start(str(tmp_path / "embed"), "embed", {"classifier": CLASSIFIER})
    features, labels = features_of(classifier)
    write_images(run, classifier, "main", features, labels)
    write_images(run, classifier, "second", *features_of(classifier, 70, seed=1))
    weight = classifier.head.weight.detach().double().numpy()
    found = class_components(1, weight[1], 0.5, features[labels == 1].astype(np.float32), 6)
    run.storage.write(arrays_name(1), save({k: np.array(v) for k, v in to_arrays(found).items()}))
    run.table("components").write("class-000001", pa.table({"class_index": [1]}))
    return run, features.astype(np.float64), labels, found


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    """Workers in this process, one unit after the other, as Ray's would."""

    def work_through(run, stage, units, make, arguments, placement):
        todo = [unit for unit in units if not run.table(stage).done(unit.name)]
        worker = make(*arguments) if todo else None
        for unit in todo:
            worker(unit)

    monkeypatch.setattr("whylens.jobs.images.index.work_through", work_through)


def built(source, tmp_path, **settings):
    spec = IndexSpec(source=source.folder, out=str(tmp_path / "index"), index=settings)
    run = Run.start(spec.out, "index", spec.model_dump(mode="json"))
    index(run, Lineage(run), spec.index, spec.placement)
    run.finish()
    return run


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
