"""Earlier methods as jobs, and the measures of what they made against numpy's."""

import contextlib
import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import scipy.ndimage
import torch
from PIL import Image
from rich.console import Console

from whylens.classifiers import load_classifier
from whylens.cluster.workers import UnitFailed
from whylens.errors import UnfinishedError, UsageError, WhylensError
from whylens.guidance import measures
from whylens.guidance.baselines import SvceSettings
from whylens.images import RejectedImageError, open_collection
from whylens.jobs.guided.counterfactual_plan import CounterfactualSpec, plan
from whylens.jobs.guided.counterfactuals import Changer
from whylens.jobs.guided.methods import BaselineSettings, load_baseline
from whylens.jobs.guided.models import Models
from whylens.jobs.images import closest
from whylens.jobs.measuring import evaluate, evaluation_report
from whylens.jobs.measuring.evaluate import EvaluateSpec, EvaluateUnit, Measurer
from whylens.jobs.measuring.evaluation import IMAGE, diversity
from whylens.jobs.measuring.pairs import SCHEMA as PAIRS
from whylens.jobs.measuring.pairs import by_pair
from whylens.jobs.measuring.terminal import show_evaluation
from whylens.jobs.report import page as report
from whylens.jobs.report.page import ReportSpec
from whylens.jobs.stage import do_missing
from whylens.runs import Run
from whylens.runs.lineage import Lineage

IMAGES = "planted:clear?count=4&seed=3"
CLASSIFIER = "planted:balanced"


@pytest.fixture(autouse=True)
def worked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the units that are done from now on, in order, in this process."""
    done: list[str] = []

    def inline(
        run: Run, stage: str, units: Any, make: Callable[..., Any], arguments: Any, placement: Any
    ) -> None:
        def do(missing: Sequence[EvaluateUnit]) -> Iterator[tuple[EvaluateUnit, Any]]:
            worker = make(*arguments)
            for unit in missing:
                try:
                    result = worker(unit)
                except RejectedImageError as error:
                    result = UnitFailed(str(error))
                done.append(unit.name)
                yield unit, result

        do_missing(run, stage, units, do)

    monkeypatch.setattr(evaluate, "work_through", inline)
    # A cluster without GPUs.
    ray = SimpleNamespace(nodes=list)
    monkeypatch.setattr(evaluate, "session", lambda: contextlib.nullcontext(ray))
    return done


def spec_of(radius: float, batch: int = 6) -> CounterfactualSpec:
    baseline = BaselineSettings(svce=SvceSettings(optimisation_steps=5, radius=radius))
    return CounterfactualSpec(
        images=3, batch=batch, method="svce", target="moon", baseline=baseline
    )


def changed(folder: Path, spec: CounterfactualSpec) -> Run:
    """A run whose counterfactuals a worker made, of four drawings."""
    settings = {
        "images": IMAGES,
        "classifier": CLASSIFIER,
        "counterfactuals": spec.model_dump(mode="json"),
    }
    run = Run.start(str(folder), "investigate", settings)
    classifier = load_classifier(CLASSIFIER)
    rows = [
        {"id": record.id, "label": k, "top5_classes": [k, 0]}
        for record in open_collection(IMAGES).records
        for k in [classifier.class_index(str(record.class_name))]
    ]
    with pytest.MonkeyPatch.context() as patch:
        # No features are there, among which a result would have neighbours.
        patch.setattr(closest, "Closest", lambda lineage, classifier: lambda features: [])
        worker = Changer(run, Lineage(run), Models("planted", CLASSIFIER), spec)
        assert sum(worker(unit) for unit in plan(rows, classifier, spec)) == 3
    return run


@pytest.fixture(scope="module")
def in_parts(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with a part of two images, one of one, and one of an image that failed."""
    run = changed(tmp_path_factory.mktemp("parts") / "run", spec_of(0.1, batch=2))
    table = run.table("counterfactuals")
    assert [len(table.read_part(unit)) for unit in table.units()] == [2, 1]
    lost = {**table.read().to_pylist()[0], "after": None, "flipped": False, "failed": "lost"}
    schema = table.read_part(table.units()[0]).schema
    table.write("lost", pa.Table.from_pylist([lost], schema=schema))
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder = tmp_path_factory.mktemp("runs")
    return [changed(folder / str(radius), spec_of(radius)) for radius in (0.01, 0.1)]


def pictures(run: Run, side: str) -> np.ndarray:
    rows = run.table("counterfactuals").read().to_pylist()
    return np.stack([np.asarray(Image.open(io.BytesIO(row[side]))) for row in rows]) / 255


def test_a_row_measures_the_stored_pictures_of_its_run(runs: list[Run], tmp_path: Path) -> None:
    out = evaluate.run(
        EvaluateSpec(
            out=str(tmp_path / "out"),
            runs=[run.folder for run in runs],
            independent="planted:judge_object",
            judges=["planted:judge_object", "planted:judge_background"],
        )
    )
    rows = out.table("evaluation").read().to_pylist()
    assert [row["run"] for row in rows] == [run.folder for run in runs]
    masks = {
        record.id: open_collection(IMAGES).object_mask(record)
        for record in open_collection(IMAGES).records
    }
    for run, row in zip(runs, rows, strict=True):
        table = run.table("counterfactuals").read().to_pylist()
        before, after = pictures(run, "before"), pictures(run, "after")
        gap = np.abs(after - before)
        assert (row["method"], row["images"], row["failed"]) == ("svce", 3, 0)
        assert row["flip_rate"] == np.mean([one["flipped"] for one in table])
        assert row["l1"] == pytest.approx(gap.mean(), rel=1e-4)
        l2 = np.sqrt((gap**2).sum((1, 2, 3))).mean()
        assert row["l2"] == pytest.approx(l2, rel=1e-4)
        outside = [
            change.mean(2)[~np.asarray(masks[one["image_id"]])].mean()
            for change, one in zip(gap, table, strict=True)
        ]
        assert row["change_outside"] == pytest.approx(np.mean(outside), rel=1e-4)
        assert row["lpips"] is None
        of_object, of_background = row["attributes"]
        assert of_object["target"] in (0, 1 / 3, 2 / 3, 1)
        assert of_background["target"] is None
        assert 0 <= of_background["kept"] <= 1
    console = Console(record=True, width=200)
    show_evaluation(out, console)
    text = console.export_text()
    assert f"{rows[0]['change_outside']:.3f}" in text
    said_kept = [f"{row['attributes'][1]['kept']:.0%}" for row in rows]
    (line,) = (line for line in text.splitlines() if "judge_background says as before" in line)
    assert [cell.strip() for cell in line.split("│")[2:4]] == said_kept
    assert "judge_object sees the target" in text
    assert "judge_background sees the target" not in text
    assert "LPIPS" not in text
    near, far = rows
    assert near["l2"] < far["l2"]
    assert near["feature_distance"] < far["feature_distance"]
    assert near["frechet"] < far["frechet"]
    assert far["target_probability"] > near["target_probability"]
    page = Path(out.folder, "report.html").read_text()
    assert f'<td class="number best">{near["l2"]:.2f}</td>' in page
    assert f'<td class="number">{far["l2"]:.2f}</td>' in page
    # Three images, before and as each run made them.
    assert page.count("<img src=") == 9
    assert "SVCE, 0.01" in page
    assert '<th scope="row">LPIPS' not in page


def test_runs_that_are_gone_are_missing_in_the_pictures_only(
    runs: list[Run], tmp_path: Path
) -> None:
    kept = changed(tmp_path / "kept", spec_of(0.05))
    gone = changed(tmp_path / "gone", spec_of(0.05))
    out = evaluate.run(
        EvaluateSpec(
            out=str(tmp_path / "out"),
            runs=[kept.folder, gone.folder],
            independent="planted:judge_object",
        )
    )
    shutil.rmtree(gone.folder)
    page = Path(report.run(ReportSpec(run=out.folder))).read_text()
    assert page.count("<img src=") == 6
    assert page.count("the run is gone") == 3
    assert page.count("no longer there") == 1
    assert "SVCE, gone" in page
    shutil.rmtree(kept.folder)
    page = Path(report.run(ReportSpec(run=out.folder))).read_text()
    assert "No image was changed to the same class" in page


def test_parts_give_what_all_images_at_once_give(
    in_parts: Run, worked: list[str], tmp_path: Path
) -> None:
    judges = ["planted:judge_object", "planted:judge_background"]
    out = evaluate.run(
        EvaluateSpec(
            out=str(tmp_path / "out"), runs=[in_parts.folder], independent=judges[0],
            judges=judges, margin=2,
        )
    )  # fmt: skip
    assert worked == [f"0000-{part}" for part in in_parts.table("counterfactuals").units()]
    (row,) = out.table("evaluation").read().to_pylist()
    table = in_parts.table("counterfactuals").read().to_pylist()
    made = [one for one in table if one["after"] is not None]
    assert (row["images"], row["failed"]) == (4, 1)
    assert row["flip_rate"] == sum(one["flipped"] for one in table) / 4
    before, after = (
        np.stack([np.asarray(Image.open(io.BytesIO(one[side]))) for one in made]) / 255
        for side in ("before", "after")
    )
    classifier, background = (load_classifier(name) for name in judges)
    both = [torch.from_numpy(side).permute(0, 3, 1, 2).float() for side in (before, after)]
    with torch.no_grad():
        x, y = (classifier.features(side).double().numpy() for side in both)
        said = [[of.logits(side).argmax(1).numpy() for side in both]
                for of in (classifier, background)]  # fmt: skip
    cosine = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    expected = {
        "target_probability": np.mean([one["p_target_after"] for one in made]),
        "l1": np.abs(after - before).mean(),
        "l2": np.sqrt(((after - before) ** 2).sum((1, 2, 3))).mean(),
        "feature_distance": (1 - cosine).mean(),
    }
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, rel=1e-5), name
    assert row["frechet"] == pytest.approx(measures.frechet(x, y), rel=1e-6)
    assert row["s3"] == pytest.approx(cosine.mean())
    assert -1 <= row["cout"] <= 1
    assert row["sfid"] is None  # of three images
    collection = open_collection(IMAGES)
    masks = {record.id: collection.object_mask(record) for record in collection.records}
    inside, outside = [], []
    for one, change in zip(made, np.abs(after - before).mean(3), strict=True):
        # All that is at most 2 pixels away along both axes.
        wide = scipy.ndimage.binary_dilation(masks[one["image_id"]], np.ones((5, 5)))
        inside.append(change[wide].mean())
        outside.append(change[~wide].mean())
    assert row["change_inside"] == pytest.approx(np.mean(inside), rel=1e-5)
    assert row["change_outside"] == pytest.approx(np.mean(outside), rel=1e-5)
    moon = classifier.class_index("moon")
    assert row["attributes"] == [
        {
            "judge": judges[0],
            "target": pytest.approx((said[0][1] == moon).mean()),
            "kept": pytest.approx((said[0][0] == said[0][1]).mean()),
        },
        {
            "judge": judges[1],
            "target": None,
            "kept": pytest.approx((said[1][0] == said[1][1]).mean()),
        },
    ]


def test_what_was_killed_goes_on_where_it_was(
    in_parts: Run, worked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = EvaluateSpec(
        out=str(tmp_path / "out"), runs=[in_parts.folder], independent="planted:judge_object"
    )
    first, second, third = (f"0000-{part}" for part in in_parts.table("counterfactuals").units())
    measure = Measurer.__call__

    def killed(self: Measurer, unit: EvaluateUnit) -> int:
        if unit.name == second:
            raise KeyboardInterrupt
        return measure(self, unit)

    with monkeypatch.context() as patch:
        patch.setattr(Measurer, "__call__", killed)
        with pytest.raises(KeyboardInterrupt):
            evaluate.run(spec)
    assert worked == [first]
    assert not Run.open(spec.out).table("evaluation").units()
    rows = evaluate.run(spec).table("evaluation").read()
    assert worked == [first, second, third]
    whole = spec.model_copy(update={"out": str(tmp_path / "whole")})
    assert rows == evaluate.run(whole).table("evaluation").read()


def test_counterfactuals_that_came_since_are_measured_too(
    in_parts: Run, worked: list[str], tmp_path: Path
) -> None:
    grown = Path(shutil.copytree(in_parts.folder, tmp_path / "grown"))
    *_, last = sorted((grown / "tables" / "counterfactuals").iterdir())
    last.rename(tmp_path / last.name)
    spec = EvaluateSpec(
        out=str(tmp_path / "out"), runs=[str(grown)], independent="planted:judge_object"
    )
    fewer = evaluate.run(spec).table("evaluation").read().to_pylist()
    (tmp_path / last.name).rename(last)
    worked.clear()
    (row,) = evaluate.run(spec).table("evaluation").read().to_pylist()
    assert worked == [f"0000-{last.stem}"]
    whole = spec.model_copy(update={"out": str(tmp_path / "whole")})
    assert [row] == evaluate.run(whole).table("evaluation").read().to_pylist()
    assert row["images"] > fewer[0]["images"]


def test_a_run_of_which_a_part_fails_is_left_out_until_it_does_not(
    runs: list[Run], worked: list[str], tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(runs[1].folder, tmp_path / "broken"))
    table = Run.open(str(broken)).table("counterfactuals")
    (part,) = table.units()
    whole = table.read_part(part)
    rows = [{**row, "after": b"no picture"} for row in whole.to_pylist()]
    table.write(part, pa.Table.from_pylist(rows, schema=whole.schema))
    spec = EvaluateSpec(
        out=str(tmp_path / "out"), runs=[runs[0].folder, str(broken)],
        independent="planted:judge_object",
    )  # fmt: skip
    with pytest.raises(UnfinishedError, match=r"measured: 1 of 2 units failed.*not an image"):
        evaluate.run(spec)
    out = Run.open(spec.out)
    assert out.record()["state"] == "failed"
    assert out.table("evaluation").units() == ["0000"]
    tried = out.table("failures").read().to_pylist()
    assert [(row["unit"], row["attempt"]) for row in tried] == [
        (f"0001-{part}", attempt) for attempt in (1, 2, 3)
    ]
    assert all("not an image" in row["reason"] for row in tried)
    (left_out,) = out.record()["warnings"]
    assert f"{broken} is left out" in left_out
    tolerant = spec.model_copy(update={"tolerate": 1.0, "retries": 0})
    assert evaluate.run(tolerant).record()["state"] == "incomplete"
    alone = spec.model_copy(update={"out": str(tmp_path / "alone"), "runs": [str(broken)]})
    with pytest.raises(UnfinishedError, match="1 of 1 units failed"):
        evaluate.run(alone)
    with pytest.raises(WhylensError, match="no run could be measured"):
        evaluate.run(alone.model_copy(update={"tolerate": 1.0}))
    assert Run.open(alone.out).record()["state"] == "failed"
    table.write(part, whole)
    worked.clear()
    assert evaluate.run(spec).table("evaluation").units() == ["0000", "0001"]
    assert worked == [f"0001-{part}"]


def test_the_best_of_a_column_are_those_that_read_best() -> None:
    marked = evaluation_report.cells([0.121, None, 0.119, 0.3], "{:.2f}", "low")
    assert [(cell.text, cell.best) for cell in marked] == [
        ("0.12", True), ("-", False), ("0.12", True), ("0.30", False)
    ]  # fmt: skip
    high = evaluation_report.cells([1, 2], "{:.0f}", "high")
    assert [cell.best for cell in high] == [False, True]
    assert not any(cell.best for cell in evaluation_report.cells([1, 2], "{:.0f}", "neither"))
    assert not any(cell.best for cell in evaluation_report.cells([1, None], "{:.0f}", "high"))


def test_an_earlier_methods_way_is_kept(runs: list[Run]) -> None:
    for row in runs[1].table("counterfactuals").read().to_pylist():
        steps = row["trajectory_steps"]
        # Where it starts, and where it ends: auto-PGD's checkpoints of 5 steps, and the last.
        assert (steps[0], steps[-1]) == (0, len(row["losses"]) - 1)
        assert steps == sorted(set(steps))
        assert row["trajectory"][0] == row["before"]
        assert row["trajectory"][-1] == row["after"]


def test_what_is_measured_is_not_measured_again(runs: list[Run], tmp_path: Path) -> None:
    spec = EvaluateSpec(
        out=str(tmp_path / "out"), runs=[runs[0].folder], independent="planted:judge_object"
    )
    first = evaluate.run(spec)
    part = tmp_path / "out" / "tables" / "evaluation" / "0000.parquet"
    there = part.stat().st_mtime_ns
    assert evaluate.run(spec).table("evaluation").units() == first.table("evaluation").units()
    assert part.stat().st_mtime_ns == there


def test_who_made_the_images_is_no_independent_judge(runs: list[Run], tmp_path: Path) -> None:
    spec = EvaluateSpec(out=str(tmp_path / "o"), runs=[runs[0].folder], independent=CLASSIFIER)
    assert "took part in making" in evaluate.run(spec).record()["warnings"][0]


def test_what_can_not_be_measured_is_refused(runs: list[Run], tmp_path: Path) -> None:
    out, independent = str(tmp_path / "out"), "planted:judge_object"
    empty = Run.start(str(tmp_path / "empty"), "embed", {"images": IMAGES})
    with pytest.raises(UsageError, match="no run has the table 'counterfactuals'"):
        evaluate.run(EvaluateSpec(out=out, runs=[empty.folder], independent=independent))
    with pytest.raises(UsageError, match="named more than once"):
        evaluate.run(EvaluateSpec(out=out, runs=[runs[0].folder] * 2, independent=independent))
    with pytest.raises(UsageError, match="VGG-16's weights are not at"):
        evaluate.run(
            EvaluateSpec(
                out=out, runs=[runs[0].folder], independent=independent,
                vgg="none.pth", lpips="none.pth",
            )
        )  # fmt: skip
    assert not Path(out).exists()


def test_a_robust_classifier_has_to_fit() -> None:
    classifier = load_classifier(CLASSIFIER)
    with pytest.raises(UsageError, match="ldce takes no robust classifier"):
        load_baseline("ldce", BaselineSettings(robust="planted:robust"), classifier)
    with pytest.raises(UsageError, match="has other classes than planted:balanced"):
        load_baseline("svce", BaselineSettings(robust="planted:judge_background"), classifier)
    assert callable(load_baseline("svce", BaselineSettings(robust="planted:robust"), classifier))


class MeanColour(torch.nn.Module):
    """In Inception's place: three features."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3))


def test_inception_s_distances_are_those_of_its_features(
    in_parts: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whylens.guidance.inception.load_inception", lambda *_: MeanColour())
    spec = EvaluateSpec(
        out=str(tmp_path / "out"), runs=[in_parts.folder], independent="planted:judge_object",
        inception="inception.pth",
    )  # fmt: skip
    (row,) = evaluate.run(spec).table("evaluation").read().to_pylist()
    table = in_parts.table("counterfactuals").read().to_pylist()
    made = [one for one in table if one["after"] is not None]
    before, after = (
        [np.asarray(Image.open(io.BytesIO(one[side]))).mean((0, 1)) / 255 for one in made]
        for side in ("before", "after")
    )
    assert row["fid"] == pytest.approx(measures.frechet(before, after), rel=1e-3)
    assert row["inception_sfid"] is None  # of three images
    assert row["diversity"] is None  # each of one image


def test_an_image_s_counterfactuals_differ_in_their_seeds(tmp_path: Path) -> None:
    classifier = load_classifier(CLASSIFIER)
    rows = [{"id": name, "label": 0, "top5_classes": [0, 1]} for name in ("a", "b", "c")]
    spec = CounterfactualSpec(images=2, each=3, batch=4, target=classifier.class_names[1])
    tasks = [task for unit in plan(rows, classifier, spec) for task in unit.tasks]
    assert [task.seed for task in tasks] == list(range(6))
    first, second = tasks[0].image_id, tasks[3].image_id
    assert [task.image_id for task in tasks] == [first] * 3 + [second] * 3


def test_a_pair_s_figures_are_those_of_its_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2, 14, 3)).astype(np.float32)
    ways = [("zebra", "sorrel")] * 4 + [("sorrel", "zebra")] * 5 + [("cougar", "cheetah")] * 5
    images = [
        {
            "run": "r", "image_id": str(i // 2), "source_name": ways[i][0],
            "target_name": ways[i][1], "made": i != 3, "flipped": i % 2 == 0,
            "feature_distance": float(i), "cout": 0.1 * i,
            **({} if i == 3 else {"features_before": features[0, i].tolist(),
                                  "features_after": features[1, i].tolist()}),
        }
        for i in range(14)
    ]  # fmt: skip
    measured = Run.start(str(tmp_path / "run"), "evaluate", {}).table("measured")
    for part, some in (("0", images[:6]), ("1", images[6:])):
        measured.write(part, pa.Table.from_pylist(some, schema=IMAGE))
    row = {"run": "r", "method": "uvce", "independent": "timm:x", "fid": None}
    both, cats = by_pair(row, measured, ["0", "1"])
    assert (both["pair"], both["images"], both["features"]) == ("sorrel - zebra", 9, "timm:x")
    there = [i for i in range(9) if i != 3]
    before, after = features[0, there], features[1, there]
    assert both["fid"] == pytest.approx(measures.frechet(before, after))
    assert both["sfid"] == pytest.approx(measures.split_frechet(before, after))
    assert both["s3"] == pytest.approx(1 - np.mean(there))
    assert both["cout"] == pytest.approx(0.1 * np.mean(there))
    assert both["flip_rate"] == pytest.approx(5 / 9)
    assert (cats["pair"], cats["images"]) == ("cheetah - cougar", 5)
    # Images 0 and 1, 4 and 5 ... were made of one image, to one class.
    of = [(str(i // 2), ways[i][1]) for i in range(14) if i != 3]
    rows = [features[1, i] for i in range(14) if i != 3]
    expected = measures.diversity(rows, of)
    assert diversity(measured, ["0", "1"]) == pytest.approx(expected)


def test_pairs_are_printed_as_blocks_of_runs(tmp_path: Path) -> None:
    out = Run.start(str(tmp_path / "out"), "evaluate", {})
    rows = [
        {"run": name, "method": method, "attributes": None} | {"images": 9, "failed": 0}
        for name, method in (("one", "uvce"), ("two", "ldce"))
    ]
    for place, row in enumerate(rows):
        told = {**row, "pair": "sorrel - zebra", "features": "Inception v3", "fid": 10.0 + place,
                "sfid": 20.0, "s3": 0.5, "cout": 0.25, "flip_rate": 0.9}  # fmt: skip
        table = pa.Table.from_pylist([told], schema=PAIRS)
        out.table("pairs").write(str(place), table)
    (block,) = evaluation_report.pairs(out, rows)
    assert (block.name, block.features) == ("sorrel - zebra", "Inception v3")
    assert [(label, images) for label, images, _ in block.lines] == [("UVCE", 9), ("LDCE", 9)]
    texts = [[cell.text for cell in line] for _, _, line in block.lines]
    assert texts[0] == ["10.0", "20.0", "0.5000", "0.2500", "90.0%"]
    assert [line[0].best for _, _, line in block.lines] == [True, False]
