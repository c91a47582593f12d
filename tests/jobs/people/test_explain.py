"""`whylens explain`: sums, SpuFix and exemplars against numpy; pages and errors as they are met."""

import io
import itertools
import json
import re

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from safetensors.numpy import save

from whylens.classifiers import load_classifier
from whylens.errors import UsageError
from whylens.images.tensors import thumbnail, to_batch, to_png
from whylens.jobs.cli import main
from whylens.jobs.findings.stored import arrays_name
from whylens.jobs.people.explain import ExplainSpec, explain
from whylens.jobs.people.explain import run as run_explain
from whylens.jobs.people.explanation_page import render
from whylens.jobs.people.waterfall import figure, laid_out, steps
from whylens.neural_pca import class_components
from whylens.neural_pca.components import to_arrays
from whylens.planted.drawing.data import draw_many
from whylens.planted.drawing.world import OBJECTS, Scene, draw
from whylens.runs import Run

TOP = 12
FISH, BOAT, RING = (OBJECTS.index(name) for name in ("fish", "boat", "ring"))
KEPT = [k for k in range(len(OBJECTS)) if k != RING]
COLUMNS = ("class_index", "component", "words", "same_as")


def label(k, component, said, when="2026-11-24T10:00:00"):
    return {"class_index": k, "component": component, "label": said, "who": "Ada", "when": when}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A run with components of all classes but ring, and what it was made from."""
    folder = tmp_path_factory.mktemp("explain") / "run"
    classifier = load_classifier("planted:biased")
    drawings = draw_many("linked", 300, 3)
    with torch.no_grad():
        features = classifier.features(to_batch(drawings.images, slice(None))).numpy()
    weight, bias = classifier.head.weight.double().numpy(), classifier.head.bias.double().numpy()
    found = {
        k: class_components(k, weight[k], bias[k], features[drawings.objects == k], TOP)
        for k in KEPT
    }
    run = Run.start(str(folder), "components", {"classifier": "planted:biased"})
    # Two parts; the last images are of another collection, and would win if they counted.
    half = features.astype(np.float16)
    collections = ["main"] * 280 + ["second"] * 20
    for unit, rows in (("main-0", slice(0, 150)), ("main-1", slice(150, 300))):
        flat = pa.array(half[rows].ravel())
        run.table("images").write(unit, pa.table({
            "id": [f"image-{i}" for i in range(300)][rows],
            "label": pa.array(drawings.objects[rows], pa.int32()),
            "class_name": pa.nulls(150, pa.string()),
            "caption": pa.nulls(150, pa.string()),
            "top5_classes": [[0]] * 150,
            "features": pa.FixedSizeListArray.from_arrays(flat, half.shape[1]),
            "collection": collections[rows],
            "thumb": [thumbnail(image) for image in drawings.images[rows]],
        }))  # fmt: skip
    suspicious = {(FISH, 0), (FISH, 1), (BOAT, 0)}
    rows = [
        dict(zip(COLUMNS, (k, index, ["sea"] * (index < 2), 0), strict=True))
        for k in KEPT for index in range(TOP)
    ]  # fmt: skip
    for k, arrays in found.items():
        content = save(
            {name: np.ascontiguousarray(a) for name, a in to_arrays(arrays).items()},
            {"classifier": json.dumps(classifier.fingerprint)},
        )
        run.storage.write(arrays_name(k), content)
    run.table("components").write("all", pa.Table.from_pylist(rows))
    run.table("verdicts").write("all", pa.Table.from_pylist([
        {"class_index": k, "component": index, "suspicious": (k, index) in suspicious}
        for k in KEPT for index in range(TOP)
    ]))  # fmt: skip
    run.table("findings").write("all", pa.Table.from_pylist(
        [{"class_index": FISH, "component": 0, "rank": 2}]))  # fmt: skip
    run.table("labels").write("a", pa.Table.from_pylist([
        label(FISH, 2, "spurious"), label(FISH, 3, "spurious", "2026-11-24T09:00:00"),
        label(FISH, 3, "not spurious"), label(BOAT, 0, "not spurious"), label(FISH, 0, "unsure"),
    ]))  # fmt: skip
    return folder, classifier, found, features, drawings


def picture(path, name, background):
    """A drawing as a file, its pixels [64, 64, 3]."""
    image = draw(Scene(name, background, None, (5, 1), clear=True)).image
    path.write_bytes(to_png(image))
    return str(path), image


@pytest.fixture(scope="module")
def fish(world, tmp_path_factory):
    path, image = picture(tmp_path_factory.mktemp("images") / "fish.png", "fish", "sea")
    return explain(ExplainSpec(image=path, run=str(world[0]), top=5, exemplars=3)), image


def command(*words):
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert stop.value.code == 0


def logits_of(classifier, image):
    """By the network's own forward pass."""
    with torch.no_grad():
        out = classifier.network(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)
    return out[0].double().numpy()


def test_the_bars_add_up_to_the_network_s_logit(world, fish):
    _, classifier, components, *_ = world
    found, image = fish
    logits = logits_of(classifier, image)
    assert (found.class_name, found.predicted) == ("fish", "fish")
    assert found.logit == pytest.approx(logits[FISH], abs=1e-4)
    alphas = [c.alpha for c in found.contributions]
    assert found.constant + sum(alphas) + found.rest == pytest.approx(found.logit, abs=1e-9)
    assert np.abs(alphas).tolist() == sorted(np.abs(alphas), reverse=True)
    # The definition of alpha, with vectors and means instead of directions and offsets.
    with torch.no_grad():
        phi = classifier.features(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)[0]
    of_fish = components[FISH]
    psi = of_fish.weight * phi.double().numpy() - of_fish.psi_mean
    by_hand = of_fish.vectors.sum(1) * (of_fish.vectors @ psi)
    assert len(by_hand) == found.others + 5
    for one in found.contributions:
        assert one.alpha == pytest.approx(by_hand[one.component], abs=1e-5)
    assert min(np.abs(alphas)) >= np.sort(np.abs(by_hand))[-5] - 1e-5


def test_spufix_takes_what_is_found_and_labelled_of_every_class(world, fish):
    _, classifier, components, *_ = world
    found, image = fish
    logits = logits_of(classifier, image)
    with torch.no_grad():
        phi = classifier.features(torch.from_numpy(image).permute(2, 0, 1)[None] / 255).numpy()
    alphas = components[FISH].alphas(phi)[0]
    # Found: 0 ("unsure" changes nothing) and 1; labelled: 2; taken back: 3, and boat's 0.
    expected = logits.copy()
    for component in (0, 1, 2):
        expected[FISH] -= max(alphas[component], 0)
    assert found.fixed_logit == pytest.approx(expected[FISH], abs=1e-4)
    assert found.removed > 0
    for values, which in ((logits, "before"), (expected, "after")):
        odds = np.exp(values - values.max())
        shares = odds / odds.sum()
        for change in found.changes:
            p = shares[OBJECTS.index(change.class_name)]
            assert getattr(change, which) == pytest.approx(p, abs=1e-5)
    standing = {c.component: c.standing for c in found.contributions}
    known = {0: "found spurious (finding 2)", 1: "found spurious (as finding 2)",
             2: "labelled spurious by Ada", 3: "labelled not spurious by Ada"}  # fmt: skip
    assert standing == {c: known.get(c, "") for c in standing}
    assert set(standing) & set(known)


def test_exemplars_are_the_class_s_own_images_of_largest_alpha(world, fish):
    _, _, components, features, drawings = world
    found, _ = fish
    own = [i for i in range(280) if drawings.objects[i] == FISH]
    alphas = components[FISH].alphas(features[own].astype(np.float16))
    for one in found.contributions:
        best = np.argsort(-alphas[:, one.component])[:3]
        assert [e.image_id for e in one.exemplars] == [f"image-{own[i]}" for i in best]
        shown = np.asarray(Image.open(io.BytesIO(one.exemplars[0].thumb)).convert("RGB"))
        drawn = drawings.images[own[best[0]]]
        assert np.abs(shown.astype(int) - drawn).mean() < 12  # WebP


@pytest.mark.slow
def test_the_steps_of_the_waterfall_join_and_the_page_shows_them_all(world, fish):
    found, _ = fish
    bars = steps(found)
    for before, after in itertools.pairwise(bars):
        if after.kind != "total":
            assert after.start == pytest.approx(before.end)
        else:
            assert after.end == pytest.approx(before.end)
    assert bars[-1].end == found.fixed_logit
    assert all(0 <= bar.left <= bar.left + bar.width <= 100.01 for bar in laid_out(found))
    page = render(found)
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert page.count("<img") == 1 + 5 + 5 * 3
    assert "found spurious (finding 2)" in page
    image = Image.open(io.BytesIO(figure(found)))
    assert image.format == "PNG"
    assert image.width > 1000


def test_the_command_prints_json_and_writes_what_it_says(world, tmp_path, capsys):
    image, pixels = picture(tmp_path / "boat.png", "boat", "desert")
    command("explain", image, "--run", world[0], "--class", "star", "--json", "--top", 2,
            "--out", tmp_path / "out")  # fmt: skip
    record = json.loads(capsys.readouterr().out)
    assert record["class"] == "star"
    assert record["predicted"] == OBJECTS[int(logits_of(world[1], pixels).argmax())]
    total = record["constant"] + record["rest"] + sum(c["alpha"] for c in record["components"])
    assert total == pytest.approx(record["logit"])
    assert json.loads((tmp_path / "out" / "explain.json").read_text()) == record
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "explain.html", "explain.json", "waterfall.png"
    }  # fmt: skip


@pytest.mark.slow
def test_the_table_on_the_terminal_names_components_and_spufix(world, tmp_path, capsys):
    image, _ = picture(tmp_path / "fish.png", "fish", "sea")
    command("explain", image, "--run", world[0], "--out", tmp_path / "out")
    out = capsys.readouterr().out
    assert "component 0" in out
    assert "SpuFix" in out
    assert f"{tmp_path / 'out'}/explain.html" in out.replace("\n", "")


def test_what_can_t_be_explained_says_why(world, tmp_path):
    folder = str(world[0])
    image, _ = picture(tmp_path / "fish.png", "fish", "sea")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")

    def refused(**spec):
        with pytest.raises(UsageError) as error:
            run_explain(ExplainSpec(**{"image": image, "run": folder, **spec}))
        return str(error.value)

    assert "nowhere.png can't be read: No such file" in refused(image="nowhere.png")
    assert f"{broken} can't be used: not an image" in refused(image=str(broken))
    assert "not a run folder" in refused(run=str(tmp_path))
    said = refused(class_name="ring")
    assert "'ring', asked for, has no components" in said
    assert "fish" in said
    assert "no class 'rong'; near names: ring" in refused(class_name="rong")
    Run.start(str(tmp_path / "embedded"), "embed", {"classifier": "planted:biased"})
    assert "has no components" in refused(run=str(tmp_path / "embedded"))
    assert not (world[0] / "explained").exists()


def test_components_of_other_weights_are_refused(world, tmp_path):
    import shutil

    shutil.copytree(world[0], tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    record["spec"]["classifier"] = "planted:balanced"
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    image, _ = picture(tmp_path / "fish.png", "fish", "sea")
    with pytest.raises(UsageError, match=r"of the classifier [0-9a-f]{16}, but planted:balanced"):
        explain(ExplainSpec(image=image, run=str(tmp_path / "run"), class_name="fish"))
