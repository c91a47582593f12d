"""The score job, its units worked through in this process: a pool would only cost seconds."""

import contextlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from timm import create_model
from timm.data import ImageNetInfo

from whylens.classifiers import load_classifier
from whylens.classifiers.activation import SOFTMAX
from whylens.classifiers.label_sets import head_columns, label_space
from whylens.errors import WhylensError
from whylens.images import open_collection
from whylens.images.spurious import SpuriousCollection
from whylens.images.tensors import to_tensor
from whylens.jobs.cli import main
from whylens.jobs.measuring import score
from whylens.jobs.measuring.figures import accuracy_against_score, leaderboard, short_names
from whylens.jobs.measuring.score import Predictor, ScoreSpec
from whylens.jobs.measuring.sides import Contender, make_sides
from whylens.jobs.report.page import ReportSpec
from whylens.jobs.report.page import run as report
from whylens.planted.drawing.world import LINKS, OBJECTS
from whylens.runs import Run

BIASED, BALANCED = "planted:biased", "planted:balanced"


def worked_inline(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the units that are done from now on, in order."""
    done: list[str] = []

    def inline(
        run: Run, stage: str, units: Any, make: Callable[..., Any], arguments: Any, placement: Any
    ) -> None:
        worker = make(*arguments)
        for unit in units:
            if not run.table(stage).done(unit.name):
                worker(unit)
                done.append(unit.name)

    monkeypatch.setattr(score, "work_through", inline)
    # A cluster without GPUs.
    ray = SimpleNamespace(nodes=list)
    monkeypatch.setattr(score, "session", lambda: contextlib.nullcontext(ray))
    return done


@pytest.fixture
def worked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return worked_inline(monkeypatch)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of a finished run, and the units that were done."""
    folder = tmp_path_factory.mktemp("score") / "run"
    with pytest.MonkeyPatch.context() as patch:
        done = worked_inline(patch)
        score.run(spec(folder))
    return folder, done


@pytest.fixture
def scored(finished: tuple[Path, list[str]], tmp_path: Path) -> Run:
    """A copy of it that can be gone on with."""
    shutil.copytree(finished[0], tmp_path / "run")
    record = tmp_path / "run" / "run.json"
    spec = json.loads(record.read_text())["spec"]
    record.write_text(record.read_text().replace(spec["out"], str(tmp_path / "run")))
    return Run.open(str(tmp_path / "run"))


def spec(out: Path, **settings: Any) -> ScoreSpec:
    given: dict[str, Any] = {
        "classifiers": [BIASED, BALANCED],
        "images": "planted:unlinked?count=80&seed=1",
        "spurious": "planted:spurious?count=64&seed=1",
        "unit": 50,
        **settings,
    }
    return ScoreSpec(out=str(out), **given)


@pytest.fixture
def jpegs(tmp_path: Path) -> Path:
    """Drawn spurious images in the published layout: class indices of the planted world."""
    collection = open_collection("planted:spurious?count=16&seed=2")
    for place, record in enumerate(collection.records):
        link = LINKS[place % len(LINKS)]
        name = f"{place % 8}_0_{OBJECTS.index(link.object)}_{link.object}_{link.feature}_3"
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(collection.load(record)).save(folder / f"{place}.jpg", quality=95)
    return tmp_path / "images"


def test_the_biased_classifier_scores_clearly_lower(scored: Run) -> None:
    first, last = scored.table("leaderboard").read().to_pylist()
    assert (first["classifier"], last["classifier"]) == (BALANCED, BIASED)
    assert first["spurious_score"] > 0.95
    assert last["spurious_score"] < 0.8
    assert first["classes"] == last["classes"] == len(LINKS)


def test_tables_say_what_the_classifier_says(scored: Run) -> None:
    run = scored
    classifier = load_classifier(BIASED)
    fish = classifier.class_index("fish")
    sides = []
    for uri, at in (("planted:unlinked?count=80&seed=1", OBJECTS.index("fish")), (None, 0)):
        collection = open_collection(uri or "planted:spurious?count=64&seed=1")
        period = len(OBJECTS) if uri else len(LINKS)
        images = [to_tensor(collection.load(r)) for r in collection.records[at::period]]
        with torch.inference_mode():
            sides.append(classifier.probabilities(torch.stack(images)).numpy())
    rows = run.table("scores").read().to_pylist()
    (row,) = [r for r in rows if r["classifier"] == BIASED and r["class_name"] == "fish"]
    assert (row["validation_images"], row["spurious_images"]) == tuple(map(len, sides))
    assert row["p_validation"] == pytest.approx(sides[0][:, fish].mean(), abs=1e-5)
    assert row["p_spurious"] == pytest.approx(sides[1][:, fish].mean(), abs=1e-5)
    assert row["accuracy"] == pytest.approx((sides[0].argmax(1) == fish).mean())
    assert row["spurious_called"] == pytest.approx((sides[1].argmax(1) == fish).mean())
    wins = sides[0][:, None, fish] > sides[1][None, :, fish]
    assert row["roc_auc"] == pytest.approx(wins.mean(), abs=1e-6)
    (leader,) = [
        r for r in run.table("leaderboard").read().to_pylist() if r["classifier"] == BIASED
    ]
    own = [r["average_precision"] for r in rows if r["classifier"] == BIASED]
    assert leader["spurious_score"] == pytest.approx(sum(own) / len(LINKS))


def test_what_is_done_is_not_done_again_and_the_page_can_be_written_again(
    scored: Run, finished: tuple[Path, list[str]], tmp_path: Path, worked: list[str]
) -> None:
    assert len(finished[1]) == len(set(finished[1])) == 2 * (2 + 2)
    before = scored.table("leaderboard").read()
    lost = ["000-validation-000001", "001-spurious-000000"]
    for name in lost:
        (tmp_path / "run" / "tables" / "predictions" / f"{name}.parquet").unlink()
    run = score.run(ScoreSpec(**scored.record()["spec"]))
    assert worked == lost
    assert run.table("leaderboard").read() == before
    page = tmp_path / "run" / "report.html"
    page.unlink()
    assert report(ReportSpec(run=run.folder)) == str(page)
    text = page.read_text()
    assert text.count("data:image/png;base64,") == 2
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text)
    for name in ("balanced", "biased", "average precision"):
        assert name in text
    for figure in ("leaderboard", "accuracy"):
        with Image.open(tmp_path / "run" / "figures" / f"{figure}.png") as picture:
            assert picture.width > 1000


def test_the_published_layout_is_scored_and_a_broken_file_is_named_once(
    tmp_path: Path, jpegs: Path, worked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    broken = next(jpegs.iterdir()) / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 no picture")
    settings = {"images": "planted:unlinked?count=20", "spurious": jpegs, "out": tmp_path / "run"}
    words = [f"--{name}={value}" for name, value in settings.items()]
    with pytest.raises(SystemExit) as stop:
        main(["score", "--classifiers", BIASED, "--classifiers", BALANCED, *words])
    assert not stop.value.code
    assert re.search(r"1 . balanced.*\n.*2 . biased", capsys.readouterr().out)
    run = Run.open(str(tmp_path / "run"))
    (rejected,) = run.table("rejected").read().to_pylist()
    assert rejected["path"] == str(broken)
    rows = run.table("predictions").read().to_pylist()
    spurious = [r for r in rows if r["side"] == "spurious" and r["classifier"] == BIASED]
    assert len(spurious) == 16
    assert {r["component"] for r in spurious} == {3}
    assert all(int(r["id"].split("_")[2]) == r["class_index"] for r in spurious)


def test_images_that_came_since_shift_no_slice(
    tmp_path: Path, jpegs: Path, worked: list[str]
) -> None:
    asked = {"images": "planted:unlinked?count=20", "spurious": str(jpegs), "unit": 5}
    wanted = score.run(ScoreSpec(out=str(tmp_path / "run"), classifiers=[BIASED], **asked))
    before = wanted.table("predictions").read()
    (tmp_path / "run/tables/predictions/000-spurious-000002.parquet").unlink()
    folder = next(jpegs.iterdir())
    shutil.copy(next(folder.iterdir()), folder / "000.jpg")
    worked.clear()
    run = score.run(ScoreSpec(**wanted.record()["spec"]))
    assert worked == ["000-spurious-000002"]
    assert run.table("predictions").read() == before
    assert any("1 image came to" in told and "000.jpg" in told for told in run.record()["warnings"])


def test_a_head_of_21843_classes_keeps_them_all_in_p_but_calls_only_the_thousand() -> None:
    names = tuple(ImageNetInfo("imagenet-21k-goog").label_descriptions())
    columns = head_columns(label_space(names), names)
    logits = torch.full((1, len(names)), -1.0)
    logits[0, columns[94]], logits[0, columns[5]], logits[0, 0] = 2.0, 3.0, 9.0
    assert 0 not in columns
    worker = Predictor(SimpleNamespace(), [], [], "cpu", 4)  # type: ignore[arg-type]
    worker._classifier = SimpleNamespace(
        logits=lambda images: logits.expand(len(images), -1), activation=SOFTMAX
    )
    p, called = worker._predict([torch.zeros(3, 2, 2)] * 5, np.full(5, 94), columns)
    total = np.exp(2.0) + np.exp(3.0) + np.exp(9.0) + 21840 * np.exp(-1.0)
    assert p == pytest.approx(np.full(5, np.exp(2.0) / total))
    assert called.tolist() == [5] * 5


def test_a_classifier_of_which_images_are_missing_has_no_score(
    scored: Run, worked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the units had failed: what raises in a worker leaves no part."""
    monkeypatch.setattr(score, "work_through", lambda *given: None)
    parts = Path(scored.folder) / "tables" / "predictions"
    settings = ScoreSpec(**scored.record()["spec"])
    (parts / "000-spurious-000001.parquet").unlink()
    score.run(settings)
    assert scored.table("leaderboard").read()["classifier"].to_pylist() == [BALANCED]
    assert f"{BIASED} has no score" in (parts.parents[1] / "report.html").read_text()
    (parts / "001-spurious-000001.parquet").unlink()
    with pytest.raises(WhylensError, match="no classifier could be scored"):
        score.run(settings)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"classifiers": [BIASED, BIASED]}, "more than once"),
        ({"classifiers": []}, "at least 1 item"),
        ({"classifiers": ["planted:nobody"]}, "no planted classifier"),
        ({"spurious": "planted:linked?count=8"}, "planted:spurious"),
        ({"images": "{folder}/zebras"}, "no validation image .* shows one of the 8 classes"),
        ({"spurious": "{folder}/spurious"}, "of 10 classes, does not have: 45, 94$"),
        ({"classifiers": [BIASED, "checkpoint:{folder}/net?arch=test_vit"]}, "no class that has"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(
    tmp_path: Path,
    worked: list[str],
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, Any],
    why: str,
) -> None:
    for folder in ("zebras/zebra", "spurious/0_0_94_hummingbird_2", "spurious/0_1_45_lizard_0"):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / folder / "a.png")
    torch.save(create_model("test_vit", num_classes=3).state_dict(), tmp_path / "net")
    given = spec(tmp_path / "run").model_dump(mode="json") | settings
    file = tmp_path / "spec.yaml"
    file.write_text(str(given).replace("{folder}", str(tmp_path)).replace("None", "null"))
    with pytest.raises(SystemExit) as stop:
        main(["score", "--spec", str(file)])
    assert stop.value.code == 2
    assert re.search(why, capsys.readouterr().err.strip())
    assert not (tmp_path / "run").exists()


def test_classes_that_a_side_or_a_head_lacks_are_named_and_left_out_for_all(
    tmp_path: Path,
) -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    for name in ("fish", "ring", "star", "gnu"):
        (tmp_path / name).mkdir()
        Image.fromarray(picture).save(tmp_path / name / "a.png")
    space = ("fish", "ring", "star", "boat")
    heads = {"a": space, "b": ("star", "boat", "fish"), "c": ("ring, finger ring", "star", "fish")}
    contenders = [Contender(name, head_columns(space, head), None) for name, head in heads.items()]
    images = open_collection(str(tmp_path))
    spurious = SpuriousCollection(
        open_collection("planted:clear?count=4"), ("boat", 1, "Star", 2), (0, 1, 2, None)
    )
    (inside, outside), remarks = make_sides(images, spurious, space, contenders)
    assert [images.records[i].class_name for i in inside.rows] == ["fish", "star"]
    assert inside.classes == (0, 2)
    assert (outside.rows, outside.classes, outside.components) == ((2, 3), (2, 2), (2, None))
    assert remarks == [
        "1 of 4 validation images have no class that a knows (gnu): they are left out",
        "1 of 3 classes with spurious images have no validation images, and no score: boat",
        "b lacks 1 of the 3 classes (ring): their images are left out for all",
    ]


def leader(name: str, accuracy: float, spurious_score: float, base: str | None = None) -> Any:
    return {
        "classifier": name,
        "base": base,
        "accuracy": accuracy,
        "spurious_score": spurious_score,
        "roc_auc": 0.9,
    }


def test_an_arrow_leads_from_a_classifier_to_its_spufix_version() -> None:
    leaders = [
        leader("timm:a", 0.80, 0.60),
        leader("spufix:a.safetensors?base=timm:a", 0.79, 0.75, base="timm:a"),
        leader("spufix:b.safetensors?base=timm:b", 0.70, 0.70, base="timm:b"),
        leader("checkpoint:/weights/c.pt?arch=resnet50", 0.5, 0.5),
    ]
    (axes,) = accuracy_against_score(leaders).axes
    arrows = [text for text in axes.texts if text.arrow_patch is not None]
    assert [(a.xy, a.xyann) for a in arrows] == [((79.0, 75.0), (80.0, 60.0))]
    shown = {text.get_text() for text in axes.texts} - {""}
    assert shown == {"a", "b + SpuFix", "c"}
    (axes,) = leaderboard(leaders, 0.4).axes
    assert [bar.get_width() for bar in axes.patches] == [60, 75, 70, 50]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["a", "a + SpuFix", "b + SpuFix", "c"]


def test_names_that_would_be_the_same_are_written_out() -> None:
    rows = [leader("timm:a", 0, 0), leader("open_clip:a", 0, 0), leader("timm:b", 0, 0)]
    assert list(short_names(rows).values()) == ["timm:a", "open_clip:a", "b"]


def test_probabilities_that_are_no_numbers_are_rejected_with_the_classifiers_name(
    tmp_path: Path, worked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Predictor._predict

    def undefined(self: Predictor, *given: Any) -> Any:
        p, called = real(self, *given)
        if self._held == 0:
            p[0] = np.nan
        return p, called

    monkeypatch.setattr(Predictor, "_predict", undefined)
    few = {"images": "planted:unlinked?count=20", "spurious": "planted:spurious?count=16"}
    run = score.run(spec(tmp_path / "run", **few))
    rejected = run.table("rejected").read()
    assert rejected["collection"].to_pylist() == ["spurious", "validation"]
    assert pa.compute.unique(rejected["reason"]).to_pylist() == [
        f"the probabilities of {BIASED} are not finite"
    ]
    images = run.table("leaderboard").read().to_pylist()
    assert {r["classifier"]: r["spurious_images"] for r in images} == {BIASED: 15, BALANCED: 16}


@pytest.fixture
def spurious_imagenet(tmp_path: Path) -> Path:
    """Validation images by class, and spurious squares in the published layout, of two classes."""
    rng = np.random.default_rng(3)
    sides = {"val/goldfish": (70, 111), "val/hummingbird": (130, 90)}
    sides |= {
        "images/0_0_1_goldfish_net_2": (84, 84),
        "images/5_1_94_hummingbird_feeder_1": (84, 84),
    }
    for folder, (height, width) in sides.items():
        (tmp_path / folder).mkdir(parents=True)
        for place in range(5):
            coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
            coarse.resize((width, height)).save(tmp_path / folder / f"{place}.png")
    return tmp_path


def test_published_scores_are_computed_as_the_published_code_does(
    worked: list[str], spurious_imagenet: Path
) -> None:
    import torchvision.transforms as T
    from safetensors.torch import save_file
    from sklearn.metrics import average_precision_score

    torch.manual_seed(1)
    model = create_model("test_vit").eval()
    torch.nn.init.normal_(model.head.weight, std=0.5)
    save_file(model.state_dict(), spurious_imagenet / "l2_improved_3_ep.safetensors")
    name = f"checkpoint:{spurious_imagenet}/l2_improved_3_ep.safetensors?arch=test_vit"
    run = score.run(
        spec(
            spurious_imagenet / "run",
            classifiers=[name],
            images=str(spurious_imagenet / "val"),
            spurious=str(spurious_imagenet / "images"),
            transform="published",
        )
    )
    bicubic = T.InterpolationMode.BICUBIC
    ending = [T.ToTensor(), T.Normalize((0.5,) * 3, (0.5,) * 3)]
    inside = T.Compose([T.Resize(int(256 / 224 * 160), bicubic), T.CenterCrop(160), *ending])
    outside = T.Compose([T.Resize(160, bicubic), *ending])

    def p(folder: str, transform: Any, k: int) -> list[float]:
        files = sorted((spurious_imagenet / folder).iterdir())
        batch = torch.stack([transform(Image.open(file)) for file in files])
        with torch.no_grad():
            return [float(value) for value in model(batch).double().softmax(1)[:, k]]

    pairs = {1: ("val/goldfish", "images/0_0_1_goldfish_net_2")}
    pairs[94] = ("val/hummingbird", "images/5_1_94_hummingbird_feeder_1")
    both = [(p(a, inside, k), p(b, outside, k)) for k, (a, b) in pairs.items()]
    truth = [1] * 5 + [0] * 5
    each = [average_precision_score(truth, own + others) for own, others in both]
    joint = average_precision_score(
        [1] * 10 + [0] * 10, both[0][0] + both[1][0] + both[0][1] + both[1][1]
    )
    (leader,) = run.table("leaderboard").read().to_pylist()
    assert leader["spurious_score"] == pytest.approx(np.mean(each), abs=1e-6)
    assert leader["joint_score"] == pytest.approx(joint, abs=1e-6)
    assert leader["published_score"] == 0.63
    assert leader["published_accuracy"] == pytest.approx(0.574)
    page = (spurious_imagenet / "run" / "report.html").read_text()
    assert "Against the published table" in page
    assert f"{leader['spurious_score'] - 0.63:+.3f}" in page


def test_the_terminal_prints_what_differs_from_the_published_table(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from rich.console import Console

    from whylens.jobs.measuring.terminal import show_leaderboard

    def row(rank: int, name: str, there: float | None, accuracy: float | None) -> dict[str, Any]:
        return {
            "rank": rank, "classifier": name, "base": None, "spurious_score": 0.85,
            "joint_score": 0.8, "roc_auc": 0.9, "accuracy": 0.8, "spurious_called": 0.2,
            "published_score": there, "published_accuracy": accuracy,
        }  # fmt: skip

    rows = [row(1, "timm:a.x", 0.851, 0.812), row(2, "timm:b.y", 0.9, None)]
    rows.append(row(3, "timm:c.z", None, None))
    tables = SimpleNamespace(read=lambda: SimpleNamespace(to_pylist=lambda: rows))
    show_leaderboard(SimpleNamespace(table=lambda name: tables), Console(width=120))  # type: ignore[arg-type]
    below = capsys.readouterr().out.split("Against the published table")[1]
    assert "-0.001" in below
    assert "-1.2" in below
    assert "-0.050" in below
    assert "c.z" not in below


def test_every_published_row_is_a_classifier_that_there_is() -> None:
    import timm

    from whylens.jobs.measuring.published import ROWS, published

    assert len(ROWS) == 77
    pretrained = set(timm.list_pretrained())
    assert [name for name in ROWS if name not in pretrained] == [
        "l2_improved_3_ep",
        "imagenet_l2_3_0",
    ]
    plain, fixed = ROWS["resnet101.a1h_in1k"]
    assert published("timm:resnet101.a1h_in1k?size=test") == plain
    assert published("spufix:x.safetensors", "timm:resnet101.a1h_in1k") == fixed
    assert published("robustness:/w/imagenet_l2_3_0.pt?arch=resnet50").score == 0.651
    assert published("torchvision:resnet50?weights=/w/l2_improved_3_ep.pt&x=1").score == 0.63
    assert published("planted:biased") is None
    # Repairs change the score up, or not at all, and cost little.
    for name, (before, after) in ROWS.items():
        assert after.score >= before.score, name
        assert before.accuracy is None or -0.11 < before.accuracy - after.accuracy < 1, name


def test_a_multi_label_head_is_scored_by_its_sigmoid_and_said_to_be_one(
    worked: list[str], tmp_path: Path
) -> None:
    name = f"{BIASED}?probabilities=sigmoid"
    run = score.run(spec(tmp_path / "run", classifiers=[name]))
    classifier = load_classifier(BIASED)
    collection = open_collection("planted:spurious?count=64&seed=1")
    for row in run.table("predictions").read().to_pylist():
        if row["side"] == "spurious":
            record = next(r for r in collection.records if r.id == row["id"])
            with torch.no_grad():
                logits = classifier.logits(to_tensor(collection.load(record))[None])[0]
            assert row["p"] == pytest.approx(float(logits[row["class_index"]].sigmoid()), abs=1e-4)
    assert "has a multi-label head" in (tmp_path / "run" / "report.html").read_text()
