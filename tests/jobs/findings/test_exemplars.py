"""The order of findings, and how a heat map's overlap with the object is measured."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from whylens.classifiers import load_classifier
from whylens.classifiers.curves import random_heat
from whylens.classifiers.heatmap import component_heatmap
from whylens.images.planted import PlantedCollection
from whylens.images.tensors import square_mask, to_tensor
from whylens.jobs.findings.exemplars import ranked
from whylens.jobs.findings.exhibitor import Exhibitor, overlap
from whylens.neural_pca import class_components
from whylens.planted.drawing.world import draw, sample_scene
from whylens.runs import Run
from whylens.runs.lineage import Lineage

made = runpy.run_path(str(Path(__file__).parents[1] / "embedded_run.py"))


def finding(component, suspicion):
    return {"class_index": 3, "component": component, "suspicion": suspicion}


def exemplar(component, heat, area):
    return {
        "class_index": 3, "component": component, "heat_on_object": heat, "object_area": area
    }  # fmt: skip


def test_findings_whose_heat_lies_on_the_object_come_later():
    found = [finding(0, 0.8), finding(1, 0.7), finding(2, 0.6)]
    shown = [exemplar(0, 0.7, 0.2), exemplar(0, 0.5, 0.2), exemplar(1, 0.1, 0.2)]
    rows = ranked(found, [*shown, exemplar(1, None, 0.9), exemplar(2, None, None)])
    # 0.8 x (1 - (0.6 - 0.2)) = 0.48; heat that avoids the object, or without a mask, costs nothing.
    assert [(row["rank"], row["component"]) for row in rows] == [(1, 1), (2, 2), (3, 0)]
    assert rows[2]["heat_on_object"] == pytest.approx(0.6)
    assert rows[0]["object_area"] == pytest.approx(0.2)
    assert "heat_on_object" not in rows[1]


def test_without_masks_suspicion_alone_decides():
    found = [finding(0, 0.5), finding(1, 0.9)]
    shown = [exemplar(0, None, None), exemplar(1, None, None)]
    assert [row["component"] for row in ranked(found, shown)] == [1, 0]


def test_a_feature_whose_visualisation_is_not_the_class_comes_later():
    found = [finding(0, 0.9), finding(1, 0.8), finding(2, 0.5)]
    npfvs = [
        {"class_index": 3, "component": 0, "p": 0.2},
        {"class_index": 3, "component": 1, "p": 1.0},
        {"class_index": 4, "component": 2, "p": 0.0},  # another class's
    ]
    rows = ranked(found, [], npfvs)
    # 0.9 x (1 + 0.2) / 2 = 0.54; without a visualisation nothing is lowered.
    assert [(row["component"], row.get("npfv_p")) for row in rows] == [
        (1, 1.0),
        (0, 0.2),
        (2, None),
    ]
    assert [row["component"] for row in ranked(found, [])] == [0, 1, 2]


def test_the_overlap_is_the_share_of_positive_heat_inside_the_mask():
    heat, mask = -np.ones((4, 4), np.float32), np.zeros((4, 4), bool)
    heat[0, 0], heat[3, 3], mask[0] = 3, 1, True
    assert overlap(heat, mask) == {"heat_on_object": 0.75, "object_area": 0.25}
    assert overlap(heat * 0, mask) == {"heat_on_object": None, "object_area": 0.25}
    assert overlap(heat, None) == {"heat_on_object": None, "object_area": None}


def test_masks_are_those_of_the_drawings_cut_as_the_picture():
    collection = PlantedCollection("planted:features", "features", {"count": "8", "seed": "3"})
    known = 0
    for index, record in enumerate(collection.records):
        drawing = draw(sample_scene("features", 3, index))
        mask = collection.object_mask(record)
        if drawing.scene.object is None:
            assert mask is None
            continue
        known += 1
        large = square_mask(mask, 256)
        assert large.shape == (256, 256)
        assert (large[2::4, 2::4] == drawing.masks["object"]).mean() > 0.99
    assert 0 < known < 8


def test_a_finding_has_the_mean_of_its_exemplars_curves():
    shown = [
        {**exemplar(0, None, None), "deletion": low, "insertion": high}
        for low, high in ((0.1, 0.9), (0.3, 0.7))
    ]
    (row,) = ranked([finding(0, 0.8)], shown)
    assert (row["deletion"], row["insertion"]) == pytest.approx((0.2, 0.8))
    (row,) = ranked([finding(0, 0.8)], [exemplar(0, None, None)])
    assert "deletion" not in row


def test_an_exemplar_s_curves_are_of_its_class_and_its_heat(tmp_path):
    classifier = load_classifier(made["CLASSIFIER"])
    settings = {"classifier": made["CLASSIFIER"], "images": "planted:clear?count=3&seed=3"}
    run = Run.start(str(tmp_path / "run"), "embed", settings)
    features, labels = made["features_of"](classifier)
    made["write_images"](run, classifier, "main", features, labels)
    weight = classifier.head.weight.detach().double().numpy()
    found = class_components(1, weight[1], 0.5, features[labels == 1].astype(np.float32), 6)
    worker = Exhibitor(run, Lineage(run), 3, 4, "Flat", "cpu")
    ids = [record.id for record in worker.images.collection.records]
    rows = worker._show(worker.images, ids, found, 2, curves=4)
    seen = classifier.eval_transform.at(160)
    records = worker.images.collection.records.with_ids(ids)
    images = torch.stack(
        [to_tensor(seen(worker.images.collection.load(records[one]))) for one in ids]
    )
    heat = component_heatmap(classifier, images, torch.from_numpy(found.directions[2]).float())

    def deleted(image, own):
        hottest = np.argsort(-own.flatten().numpy(), kind="stable")
        curve = []
        for quarter in range(5):
            grey = image.flatten(1).clone()
            grey[:, hottest[: quarter * len(hottest) // 4]] = 0.5
            with torch.no_grad():
                p = classifier.probabilities(grey.view(1, *image.shape))[0, 1]
            curve.append(float(p))
        return np.trapezoid(curve, dx=1 / 4)

    drawn = random_heat(heat)
    for place, (row, image) in enumerate(zip(rows, images, strict=True)):
        assert row["deletion"] == pytest.approx(deleted(image, heat[place]), abs=1e-5)
        expected = np.mean([deleted(image, one[place]) for one in drawn])
        assert row["random_deletion"] == pytest.approx(expected, abs=1e-5)
        assert 0 <= row["insertion"] <= 1
        assert 0 <= row["random_insertion"] <= 1
    assert "deletion" not in worker._show(worker.images, ids[:1], found, 2)[0]
