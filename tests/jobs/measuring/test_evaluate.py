"""Earlier methods as jobs, and the measures of what they made against numpy's."""

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from whylens.classifiers import load_classifier
from whylens.errors import UsageError
from whylens.guidance.baselines import SvceSettings
from whylens.images import open_collection
from whylens.jobs.guided.counterfactuals import Changer, CounterfactualSpec, plan
from whylens.jobs.guided.methods import BaselineSettings, load_baseline
from whylens.jobs.images import closest
from whylens.jobs.lineage import Lineage
from whylens.jobs.measuring import evaluate, evaluation_report
from whylens.jobs.measuring.evaluate import EvaluateSpec
from whylens.jobs.measuring.terminal import show_evaluation
from whylens.jobs.report import page as report
from whylens.jobs.report.page import ReportSpec
from whylens.runs import Run

IMAGES = "planted:clear?count=4&seed=3"
CLASSIFIER = "planted:balanced"


def spec_of(radius: float, **options: Any) -> CounterfactualSpec:
    baseline = BaselineSettings(svce=SvceSettings(optimisation_steps=5, radius=radius), **options)
    return CounterfactualSpec(images=3, method="svce", target="moon", baseline=baseline)


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
    (unit,) = plan(rows, classifier, spec)
    with pytest.MonkeyPatch.context() as patch:
        # No features are there, among which a result would have neighbours.
        patch.setattr(closest, "Closest", lambda lineage, classifier: lambda features: [])
        worker = Changer(run, Lineage(run), spec, "planted", CLASSIFIER, (), "cpu")
        assert worker(unit) == 3
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
