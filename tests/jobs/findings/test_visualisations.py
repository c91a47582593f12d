"""The visualisations stage: what a worker writes, measured again on the stored pictures."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from whylens.classifiers import load_classifier
from whylens.jobs.findings import visualisations as job
from whylens.runs import Run


def test_the_best_findings_are_visualised_and_the_numbers_are_the_stored_picture_s(
    tmp_path, monkeypatch
):
    classifier = load_classifier("planted:robust")
    rng = np.random.default_rng(0)
    findings = [{"class_index": k, "component": k % 2} for k in (5, 1, 0)]
    directions = {
        (f["class_index"], f["component"]): (
            rng.normal(size=classifier.feature_size), float(place))
        for place, f in enumerate(findings)
    }  # fmt: skip
    run = Run.start(str(tmp_path / "run"), "visualisations", {})
    spec = job.VisualisationSpec(findings=2, steps=6, batch=1)
    units = []

    def by_hand(run, stage, wanted, make, arguments, placement):
        worker = make(*arguments)
        units.extend(unit.name for unit in wanted)
        assert [worker(unit) for unit in wanted] == [1, 1]

    monkeypatch.setattr(job, "work_through", by_hand)
    job.visualisations(
        run, spec, findings, directions, classifier="planted:robust", placement=job.Resources()
    )
    assert run.table("visualisations").units() == sorted(units)
    rows = run.table("visualisations").read().to_pylist()
    assert {row["class_index"] for row in rows} == {5, 1}
    for row in rows:
        pixels = np.asarray(Image.open(io.BytesIO(row["npfv"])))
        assert pixels.shape == (64, 64, 3)
        image = torch.from_numpy(pixels / 255.0).float().permute(2, 0, 1)[None]
        assert (image - 0.5).norm() <= row["radius"] + 0.3  # rounded to 256 levels
        with torch.no_grad():
            phi = classifier.network.features(image)
            p = classifier.network(image).softmax(1)[0, row["class_index"]]
        direction, offset = directions[row["class_index"], row["component"]]
        alpha = float(phi[0].double().numpy() @ direction) - offset
        assert row["alpha"] == pytest.approx(alpha, rel=1e-4)
        assert row["p"] == pytest.approx(float(p), abs=1e-4)
        assert row["alpha"] > row["alpha_grey"]
