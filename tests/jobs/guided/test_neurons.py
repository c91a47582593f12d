"""The neurons job: which neurons, which words, and that each row tells of its own pictures."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from whylens.classifiers import load_classifier
from whylens.errors import UsageError
from whylens.guidance.settings import GuidanceSettings
from whylens.images import open_collection
from whylens.images.tensors import to_tensor
from whylens.jobs.guided import neuron_plan, neurons
from whylens.jobs.guided.models import Models
from whylens.jobs.guided.neuron_plan import Neuron, NeuronSpec
from whylens.jobs.images.embedded import Embedded
from whylens.runs import Run
from whylens.runs.lineage import Lineage

# Two classes, four features: feature 1 is the class 0's own, 2 a thing that its images show.
WEIGHT = np.array([[0.0, 1.0, 1.0, 0.0], [0.5, 0.0, 0.0, 1.0]])


def embedded(features: list[list[float]], labels: list[int], texts: list[str]) -> Embedded:
    return Embedded(
        [f"image-{place}" for place in range(len(labels))],
        np.array(labels),
        texts,
        texts,
        np.array(labels),
        np.array(features, np.float32),
    )


MAIN = embedded(
    [[0, 3, 2, 0], [0, 2, 3, 0], [1, 0, 0, 2], [0, 0, 0, 3], [0, 1, 4, 0.5]],
    [0, 0, 1, 1, 0],
    ["a boat, sea", "a boat, sea", "a car, road", "a car, road", "a boat, sea"],
)


def test_neurons_are_those_that_carry_the_findings() -> None:
    finding = {"rank": 1, "class_index": 0, "mined_ids": ["image-0", "image-4"]}
    # Against the mean [0.2, 1.2, 1.8, 1.1]: gains of 0.8 and 1.2 of the features 1 and 2.
    (first,) = neuron_plan.choose(MAIN, [MAIN], [finding], WEIGHT, NeuronSpec(most=1))
    assert (first.index, first.class_index, first.rank) == (2, 0, 1)
    assert first.share == pytest.approx(1.2)
    again = {**finding, "rank": 2}
    two = neuron_plan.choose(MAIN, [MAIN], [again, finding], WEIGHT, NeuronSpec(most=2))
    assert [(n.index, n.rank) for n in two] == [(2, 1), (1, 2)]


def test_without_findings_the_classes_stand_for_them() -> None:
    found = neuron_plan.choose(MAIN, [MAIN], [], WEIGHT, NeuronSpec(most=4))
    # Class 1: feature 3, 2.5 - 1.1; class 0: feature 2, 3 - 1.8.
    assert [(n.index, n.class_index, n.rank) for n in found] == [(3, 1, None), (2, 0, None)]
    assert [n.share for n in found] == pytest.approx([1.4, 1.2])


def test_neurons_can_be_named_and_must_be_there() -> None:
    spec = NeuronSpec(neurons=[3, 0, 3])
    assert [(n.index, n.class_index) for n in neuron_plan.choose(MAIN, [], [], WEIGHT, spec)] == [
        (3, 1), (0, 1),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="has 96 features, from 0 to 95: there is no 96"):
        neuron_plan.check(NeuronSpec(neurons=[5, 96]), load_classifier("planted:biased"))


def test_some_settings_leave_the_other_defaults_of_changing() -> None:
    given = {"chain": {"steps": 4}, "views": {"noise": 0.2}}
    spec = NeuronSpec.model_validate({"changing": given})
    own = NeuronSpec().changing
    chain = own.chain.model_copy(update={"steps": 4})
    views = own.views.model_copy(update={"noise": 0.2})
    expected = own.model_copy(update={"chain": chain, "views": views})
    assert spec.changing == expected
    assert (expected.optimiser.latents_factor, expected.editing.mask) == (0.0, "none")


def test_given_masks_are_for_counterfactuals() -> None:
    with pytest.raises(ValueError, match="neurons take no given masks"):
        NeuronSpec(changing=GuidanceSettings(editing={"mask": "given"}))


def test_words_are_those_of_exemplars_and_their_classes() -> None:
    words = neuron_plan.suggested(
        MAIN.features[:, 2], MAIN, ("boat", "car"), NeuronSpec(exemplars=3, words=2)
    )
    assert words == (
        ("sea", "a photo of sea"), ("sea", "a photo of a sea"), ("boat", "a photo of a boat"),
    )  # fmt: skip


def test_a_neuron_counts_where_the_class_that_is_said_weighs_it() -> None:
    """WEIGHT has the feature 3 for class 1 alone."""
    found = neuron_plan.strengths(Neuron(3, 1, 1.0), MAIN, WEIGHT)
    assert found["activation"].tolist() == [0, 0, 2, 3, 0.5]
    # Of image-4 the class 0 is said, which does not weigh it.
    assert found["relevance"].tolist() == [0, 0, 2, 3, 0]


def test_exemplars_are_told_by_activation_and_by_relevance(tmp_path: Path) -> None:
    run = Run.start(str(tmp_path / "run"), "embed", {})
    thumbs = [{"id": name, "thumb": name.encode()} for name in MAIN.ids[:4]]
    for table in ("images", "thumbnails"):
        run.table(table).write("0", pa.Table.from_pylist(thumbs))
    neuron, names = Neuron(0, 1, 1.0), ("boat", "car")
    strong = {neuron: neuron_plan.strengths(neuron, MAIN, WEIGHT)}
    rows = neurons.shown_exemplars(Lineage(run), strong, MAIN, names, 24)
    for by in ("activation", "relevance"):
        # Feature 0 is in image-2 alone, which is called a car, as weighs it.
        first, *others = [row["image_id"] for row in rows if row["by"] == by]
        assert first == "image-2"
        assert len(others) == 4
    for row in rows:
        place = MAIN.ids.index(row["image_id"])
        assert row["activation"] == MAIN.features[place, 0]
        assert row["relevance"] == WEIGHT[MAIN.predicted[place], 0] * row["activation"]
        assert row["thumb"] == (row["image_id"].encode() if place < 4 else None)
        assert row["class_name"] == names[MAIN.predicted[place]]


def test_images_to_lower_activate_most_and_images_to_raise_least() -> None:
    changes = list(neuron_plan.to_change(Neuron(2, 0, 1.0), MAIN, NeuronSpec(changed=2)))
    assert changes[:2] == [("down", "image-4"), ("down", "image-1")]
    assert sorted(changes[2:]) == [("up", "image-2"), ("up", "image-3")]
    # Feature 3: image-4 has little of it, the others of class 0 nothing, which can't be followed.
    (up,) = [
        image_id
        for kind, image_id in neuron_plan.to_change(Neuron(3, 1, 1.0), MAIN, NeuronSpec(changed=1))
        if kind == "up"
    ]
    assert up == "image-4"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, in_process: Any) -> tuple[Run, Run]:
    """An embed run of planted drawings, and a neurons run on it, worked through in this process."""
    images = "planted:linked?count=30&seed=4"
    folder = tmp_path_factory.mktemp("neurons")
    source = Run.start(str(folder / "embed"), "embed",
                       {"images": images, "classifier": "planted:biased"})  # fmt: skip
    classifier, collection = load_classifier("planted:biased"), open_collection(images)
    records = list(collection.records)
    pictures = torch.stack([to_tensor(collection.load(record)) for record in records])
    with torch.inference_mode():
        phi = classifier.features(pictures)
        top = classifier.head(phi).topk(5).indices
    rows = [
        {"id": r.id, "label": classifier.class_index(str(r.class_name)), "caption": r.caption,
         "class_name": r.class_name, "top5_classes": top[i].tolist(), "collection": "main",
         "thumb": r.id.encode()}
        for i, r in enumerate(records)
    ]  # fmt: skip
    flat = pa.array(phi.half().numpy().ravel())
    table = pa.Table.from_pylist(rows)
    column = pa.FixedSizeListArray.from_arrays(flat, classifier.feature_size)
    source.table("images").write("0", table.append_column("features", column))
    source.finish()
    run = Run.start(str(folder / "run"), "neurons", {"source": source.folder})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neurons, "work_through", in_process)
        work(run)
    return source, run


SPEC = NeuronSpec(
    most=1,
    words=2,
    samples=1,
    images=1,
    changed=1,
    guidance=GuidanceSettings(chain={"steps": 2}, optimiser={"steps": 1}, views={"cutouts": 0}),
    changing=GuidanceSettings(
        chain={"steps": 3},
        optimiser={"steps": 2},
        views={"cutouts": 0},
        editing={"mask": "attention"},
    ),
)


def work(run: Run) -> None:
    models = Models("planted", "planted:biased", ["planted:balanced"])
    neurons.neurons(run, Lineage(run), SPEC, models)


def tensor(content: bytes) -> torch.Tensor:
    return to_tensor(np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))[None]


def test_the_best_word_is_that_of_the_highest_mean_activation(done: tuple[Run, Run]) -> None:
    words = done[1].table("neuron_words").read().to_pylist()
    classifier = load_classifier("planted:biased")
    for row in words:
        seen = [float(classifier.features(tensor(i))[0, row["neuron"]]) for i in row["images"]]
        assert row["activation"] == pytest.approx(np.mean(seen), abs=1e-4)
    best = max(words, key=lambda row: row["activation"])
    assert [row["prompt"] for row in words if row["chosen"]] == [best["prompt"]]
    made = [row for row in done[1].table("neurons").read().to_pylist() if row["kind"] == "image"]
    assert {(row["word"], row["prompt"]) for row in made} == {(best["word"], best["prompt"])}


def test_rows_tell_of_their_own_pictures(done: tuple[Run, Run]) -> None:
    source, run = done
    rows = run.table("neurons").read().to_pylist()
    assert sorted(row["kind"] for row in rows) == ["down", "image", "up"]
    images = source.table("images").read().to_pylist()
    for row in rows:
        for name in ("biased", "balanced"):
            classifier = load_classifier(f"planted:{name}")
            for when in ("before", "after"):
                phi = classifier.features(tensor(row[when]))
                p = classifier.head(phi).softmax(1)[0]
                for said in row["probabilities"]:
                    if said["classifier"] == f"planted:{name}":
                        k = classifier.class_index(said["class_name"])
                        assert said[when] == pytest.approx(float(p[k]), abs=1e-4)
                if name == "biased":
                    at = float(phi[0, row["neuron"]])
                    assert row[f"activation_{when}"] == pytest.approx(at, abs=1e-4)
        phi = load_classifier("planted:biased").features(tensor(row["after"]))[0].detach().numpy()
        distances = {i["id"]: np.linalg.norm(np.float32(i["features"]) - phi) for i in images}
        nearest = sorted(distances, key=lambda one: distances[one])[:4]
        assert [one["image_id"] for one in row["closest"]] == nearest
        assert [one["thumb"] for one in row["closest"]] == [one.encode() for one in nearest]
        assert row["trajectory"][-1] == row["after"]
        # Images from words and real images have settings of their own.
        settings = SPEC.guidance if row["kind"] == "image" else SPEC.changing
        assert len(row["losses"]) == settings.optimiser.steps + 1
        assert (row["mask"] is None) == (row["kind"] == "image")
        if row["kind"] == "down":
            could = tensor(row["mask"])[0, 0] > 0
            change = (tensor(row["after"]) - tensor(row["before"])).abs().amax((0, 1))
            assert change[~could].max() < 1 / 255
        if row["kind"] != "image":
            drawn = next(i for i in open_collection("planted:linked?count=30&seed=4").records
                         if i.id == row["image_id"])  # fmt: skip
            shown = open_collection("planted:linked?count=30&seed=4").load(drawn)
            assert torch.equal(tensor(row["before"])[0], to_tensor(shown))


def test_what_is_done_is_not_done_again(
    done: tuple[Run, Run], monkeypatch: pytest.MonkeyPatch, in_process: Any
) -> None:
    run, made = done[1], list[str]()
    monkeypatch.setattr(neurons, "work_through", in_process)
    for worker in (neurons.WordTrier, neurons.Activator):
        monkeypatch.setattr(worker, "__call__", lambda self, unit: made.append(unit.name))
    gone = run.table("neurons").units()[0]
    Path(run.folder, "tables", "neurons", f"{gone}.parquet").unlink()
    work(run)
    assert made == [gone]
