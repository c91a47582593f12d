"""The components job beside a direct calculation in memory; tables that it refuses."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from whylens.classifiers import load_classifier
from whylens.cluster.placement import Placement, Resources
from whylens.errors import UsageError, WhylensError
from whylens.jobs.findings import census, finder
from whylens.jobs.findings import components as job
from whylens.jobs.findings.head import Head
from whylens.neural_pca import class_components, on_device
from whylens.neural_pca.strata import over_strata, q_values
from whylens.runs import Run
from whylens.runs.lineage import Lineage

CLASSIFIER = "planted:biased"


@pytest.fixture(scope="module")
def head():
    return Head.of(load_classifier(CLASSIFIER))


def collection(head, tag, count, seed, unlabelled=()):
    """Ids, labels, captions, features [N, D] and predictions of made-up images of a classifier."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(4, size=count)
    centres = np.maximum(head.weight[:4], 0) * 2
    features = np.maximum(centres[labels] + generator.normal(size=(count, head.size)), 0)
    features = features.astype(np.float16).astype(np.float32)
    logits = features.astype(np.float64) @ head.weight.T + head.bias
    given = labels.copy()
    given[list(unlabelled)] = -1
    return SimpleNamespace(
        tag=tag,
        ids=[f"{tag}-{row}" for row in range(count)],
        labels=given,
        used=np.where(given < 0, logits.argmax(1), given),
        texts=[f"photo of {'moss' if row % 7 == 0 else 'sand'} {row % 3}" for row in range(count)],
        features=features,
        predicted=logits.argmax(1),
        probabilities=np.exp(logits) / np.exp(logits).sum(1, keepdims=True),
    )


def write(run, seen, rows, part):
    """Some rows of a collection as a part of the images table."""
    rows = np.asarray(rows)
    size = seen.features.shape[1]
    flat = pa.array(seen.features[rows].astype(np.float16).ravel())
    columns = {
        "id": [seen.ids[r] for r in rows],
        "label": pa.array(seen.labels[rows], pa.int32()),
        "class_name": pa.array([None] * len(rows), pa.string()),
        "caption": [seen.texts[r] for r in rows],
        "features": pa.FixedSizeListArray.from_arrays(flat, size),
        "top5_classes": pa.array([[p] for p in seen.predicted[rows]], pa.list_(pa.int32())),
        "collection": [seen.tag] * len(rows),
    }
    run.table("images").write(part, pa.table(columns))


@pytest.fixture
def start(tmp_path, monkeypatch, in_process):
    monkeypatch.setattr(job, "work_through", in_process)

    def started(second=None):
        spec = {"classifier": CLASSIFIER} | ({"second": second} if second else {})
        return Run.start(str(tmp_path / "run"), "investigate", spec)

    return started


def find(run, **settings):
    job.components(
        run, Lineage(run), job.ComponentSettings(top=5, mined=12, **settings), Placement()
    )
    return run.table("components").read().to_pylist()


def largest_without_one(values, strata):
    """The p-value that holds whichever class is left out; the images of the one that is left of
    two are compared with each other."""
    classes = list(np.unique(strata))
    rest = [strata != one for one in classes]
    if len(classes) == 2:
        tests = [stats.ttest_1samp(values[left], 0, alternative="greater").pvalue for left in rest]
        found = np.nan_to_num(tests, nan=1.0)  # a single image tells nothing
    else:
        found = [over_strata(values[left], strata[left]).p_value for left in rest]
    return max(found)


def directly(head, main, pool, pool_labels, k):
    """Rows of a class, from the definitions, with everything in memory."""
    inside = main.used == k
    found = class_components(k, head.weight[k], head.bias[k], main.features[inside], 5)
    without = np.flatnonzero(pool_labels != k)
    alphas = found.alphas(pool.features[without])
    p = pool.probabilities[without, k]
    own, others = main.features[inside].mean(0), main.features[~inside].mean(0)
    contrast = (found.alphas(own[None])[0] - found.alphas(others[None])[0]) / (
        (own - others) @ head.weight[k]
    )
    # Images without a label are of the class that they are most taken for beside k.
    second = np.array(pool.probabilities)
    second[:, k] = -1
    strata = np.where(pool_labels < 0, second.argmax(1), pool_labels)
    bases = {
        s: (p[strata[without] == s].sum() + 5 * p.mean()) / ((strata[without] == s).sum() + 5)
        for s in np.unique(strata)
    }
    order = [without[np.argsort(-alphas[:, c], kind="stable")[:12]] for c in range(5)]
    plain = [np.array([bases[s] for s in strata[best]]) for best in order]
    gains = [
        pool.probabilities[best, k].mean() / base.mean()
        for best, base in zip(order, plain, strict=True)
    ]
    p_own = main.probabilities[inside, k].mean()
    rows = []
    for component, best in enumerate(order):
        mined_p = pool.probabilities[best, k]
        expected = plain[component] * max(1, np.median(np.delete(gains, component)))
        expected = np.minimum(expected, 1)
        asked = np.maximum(1.5 * expected, expected + 0.1 * (p_own - expected))
        above = over_strata(mined_p - asked, strata[best])
        level, anyway = above.weights @ asked, above.weights @ expected
        low = np.nan_to_num(above.low + level).clip(0, 1)
        reached = ((low - anyway) / (level - anyway)).clip(0, 1)
        rows.append(
            {
                "images": int(inside.sum()),
                "variance": found.variances[component],
                "logit_share": contrast[component],
                "sufficiency_mean_p": mined_p.mean(),
                "sufficiency_share": (pool.predicted[best] == k).mean(),
                "lift": mined_p.mean() / p.mean(),
                "strata_p": above.mean + level,
                "expected_p": anyway,
                "asked_p": level,
                "p_value": largest_without_one(mined_p - asked, strata[best]),
                "strata": above.strata,
                "suspicion": low * reached * (contrast[component] > 0),
                "mined_ids": [pool.ids[row] for row in best],
                "mined_labels": list(pool_labels[best]),
                "mined_alphas": found.alphas(pool.features[best])[:, component],
                "mined_p": mined_p,
            }
        )
    leaders, same = [], list(range(5))
    for component in np.argsort([-r["suspicion"] for r in rows], kind="stable"):
        best = order[component]
        all_alphas = found.alphas(pool.features)
        for leader in leaders:
            ranks = [(alphas[:, leader] < all_alphas[b, leader]).mean() for b in best]
            if np.mean(ranks) >= 0.85:
                same[component] = leader
                break
        else:
            leaders.append(int(component))
    for component, row in enumerate(rows):
        row |= {"same_as": same[component]}
    return rows


@pytest.mark.parametrize("with_second", [False, True])
def test_streaming_gives_what_a_calculation_in_memory_gives(start, head, with_second, monkeypatch):
    # Blocks, spans and groups as small as a large table makes them.
    monkeypatch.setattr(finder, "BLOCK", 50)
    monkeypatch.setattr(census, "SPANS", 3)
    monkeypatch.setattr(finder, "MEMORY", 60_000)
    run = start("elsewhere" if with_second else None)
    main = collection(head, "main", 330, 1, unlabelled=range(0, 330, 11))
    for place in range(5):
        write(run, main, range(place * 66, place * 66 + 66), f"main-{place}")
    pool, pool_labels = main, main.used
    if with_second:
        pool = collection(head, "second", 260, 2, unlabelled=range(0, 260, 5))
        pool_labels = pool.labels
        for place in range(4):
            write(run, pool, range(place * 65, place * 65 + 65), f"second-{place}")
    rows = find(run)
    classes = [k for k in range(len(head.names)) if (main.used == k).sum() >= 10]
    assert sorted({row["class_index"] for row in rows}) == classes
    assert len(classes) >= 4
    for k in classes:
        seen = [row for row in rows if row["class_index"] == k]
        for row, expected in zip(seen, directly(head, main, pool, pool_labels, k), strict=True):
            for name, value in expected.items():
                if name in ("mined_ids", "mined_labels", "images", "strata", "same_as"):
                    assert row[name] == value, (k, row["component"], name)
                else:
                    np.testing.assert_allclose(row[name], value, rtol=1e-4, atol=1e-6)
    verdicts = run.table("verdicts").read().to_pylist()
    assert len(verdicts) == len(rows)
    shares = np.maximum([row["logit_share"] for row in rows], 0)
    q = q_values(np.array([row["p_value"] for row in rows]), shares)
    np.testing.assert_allclose([v["q_value"] for v in verdicts], q)
    assert [v["suspicious"] for v in verdicts] == (q <= 0.05).tolist()
    (part,) = Path(run.folder, "tables", "verdicts").iterdir()
    written = part.stat().st_mtime_ns
    find(run)
    assert part.stat().st_mtime_ns == written
    warned = run.record()["warnings"]
    assert any("30 of 330 images have no class" in message for message in warned)


def test_what_is_done_is_not_done_again(start, head, monkeypatch):
    run = start()
    main = collection(head, "main", 200, 3)
    write(run, main, range(200), "main-0")
    rows = find(run)
    lost = run.storage.path("tables/components/class-000002.parquet")
    os.unlink(lost)
    asked = []
    monkeypatch.setattr(
        finder.ComponentFinder,
        "_find",
        lambda self, classes, find=finder.ComponentFinder._find: (
            asked.append(list(classes)) or find(self, classes)
        ),
    )
    assert find(run) == rows
    assert asked == [[2]]


def test_where_the_stage_asks_for_a_gpu_it_calculates_there(start, head, monkeypatch):
    """And finds what it finds without: the CPU stands in for the GPU."""
    run, made = start("elsewhere"), []

    class Seen(on_device.Affine):
        def __init__(self, device, matrix, offset):
            made.append(device)
            super().__init__(device, matrix, offset)

    def anew(num_gpus):
        for unit in run.table("components").units():
            run.table("components").remove(unit)
        return find(run, placement={"num_gpus": num_gpus})

    monkeypatch.setattr(on_device, "Affine", Seen)
    monkeypatch.setattr(job, "of_stage", lambda own, runs: own)
    monkeypatch.setattr(Resources, "device", "cpu")
    for tag, seed in (("main", 3), ("second", 8)):
        write(run, collection(head, tag, 300, seed), range(300), f"{tag}-0")
    wanted = anew("auto")
    assert not made
    found = anew(1)
    assert set(made) == {"cpu"}
    assert len(found) == len(wanted)
    for own, other in zip(found, wanted, strict=True):
        assert own["mined_ids"] == other["mined_ids"]
        assert own["variance"] == pytest.approx(other["variance"], rel=1e-6)
        for name in ("mined_alphas", "mined_p", "suspicion"):
            assert own[name] == pytest.approx(other[name], rel=1e-4, abs=1e-5)


def test_features_of_another_classifier_are_refused_before_any_work(start, head):
    run = start()
    main = collection(head, "main", 60, 4)
    main.predicted = (main.predicted + 1) % len(head.names)
    write(run, main, range(60), "main-0")
    with pytest.raises(UsageError, match=rf"not embedded by {CLASSIFIER} .*for 0% of them"):
        find(run)
    main.features = main.features[:, :-1]
    write(run, main, range(60), "main-0")
    with pytest.raises(UsageError, match=rf"{head.size - 1} features.*has {head.size}"):
        find(run)
    assert not run.table("census").units()
    assert not run.table("components").units()


def test_a_label_outside_the_head_is_named(start, head):
    run = start()
    main = collection(head, "main", 80, 5)
    write(run, main, range(40), "main-0")
    main.labels[50] = 4321
    write(run, main, range(40, 80), "main-1")
    with pytest.raises(WhylensError, match=r"main-1.*label 4321.*classes"):
        find(run)
    assert not run.table("components").units()


def test_an_image_whose_features_are_not_finite_is_named(start, head):
    run = start()
    main = collection(head, "main", 80, 6)
    main.features[70, 3] = np.nan
    write(run, main, range(40), "main-0")
    write(run, main, range(40, 80), "main-1")
    with pytest.raises(WhylensError, match=r"features of main-70 in the part main-1.*not finite"):
        find(run)


def test_classes_without_enough_images_are_skipped_and_named(start, head):
    run = start()
    main = collection(head, "main", 120, 7)
    rows = np.flatnonzero(main.used != 1)
    write(run, main, np.append(rows, np.flatnonzero(main.used == 1)[0]), "main-0")
    wanted = [head.names[k] for k in (0, 1, 2)]
    found = find(run, classes=wanted)
    assert {row["class_index"] for row in found} == {0, 2}
    assert any(
        f"1 classes have fewer than 10 images and are skipped: {head.names[1]}" in message
        for message in run.record()["warnings"]
    )
    with pytest.raises(WhylensError, match="no class has 10 images"):
        find(run, classes=[head.names[1]])


def test_groups_share_a_pass_within_the_memory():
    counts = np.full(1000, 1300)
    groups = finder.groups_of(range(1000), counts, 2048, 128, 40, 8)
    assert [k for group in groups for k in group.classes] == list(range(1000))
    for group in groups:
        features = 1300 * 2048 * 4 * len(group.classes)
        kept = finder.Miner.bytes_a_class(128, 2048, 40) * len(group.classes)
        assert features + kept <= finder.MEMORY
    assert len(groups) < 50
    # A few classes are still work for every worker.
    assert len(finder.groups_of(range(10), counts, 64, 128, 40, 8)) >= 5
