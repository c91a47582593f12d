"""What is looked up of a component that is no finding, against its definition."""

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import save

from whylens.jobs.findings.stored import arrays_name, read_components
from whylens.jobs.people.evidence import (
    class_alphas,
    filled,
    images_of_class,
    mined_images,
    nearest_images,
    neighbours,
    thumbs,
)
from whylens.jobs.people.map import map_of_components, map_of_images
from whylens.jobs.report.parts.finding import bare
from whylens.neural_pca import class_components
from whylens.neural_pca.components import to_arrays
from whylens.runs import OpenedRun, Run

D, EACH = 6, 20


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[OpenedRun, np.ndarray, np.ndarray]:
    """A run of two collections in three parts, with components of class 1; features and labels."""
    run = Run.start(
        str(tmp_path_factory.mktemp("runs") / "run"), "investigate", {"second": "somewhere"}
    )
    rng = np.random.default_rng(0)
    features = rng.gamma(1.0, 2.0, (3 * EACH, D)).astype(np.float16)
    labels = np.arange(3 * EACH) % 3
    for part in range(3):
        rows = slice(part * EACH, (part + 1) * EACH)
        tag = "second" if part == 2 else "main"
        run.table("images").write(
            f"{part}",
            pa.table(
                {
                    "id": [f"{tag}-{i}" for i in range(3 * EACH)[rows]],
                    "label": pa.array(labels[rows], pa.int32()),
                    "class_name": ["x"] * EACH,
                    "caption": pa.nulls(EACH, pa.string()),
                    "thumb": [b"%d" % i for i in range(3 * EACH)[rows]],
                    "features": pa.FixedSizeListArray.from_arrays(
                        pa.array(features[rows].ravel()), D
                    ),
                    "top5_classes": [[(int(k) + (i == 1)) % 3] for i, k in enumerate(labels[rows])],
                    "p_label": rng.uniform(size=EACH),
                    "collection": [tag] * EACH,
                }
            ),
        )
    weight = rng.normal(size=D)
    mine = features[: 2 * EACH][labels[: 2 * EACH] == 1].astype(np.float32)
    found = class_components(1, weight, 0.5, mine, 4)
    run.storage.write(arrays_name(1), save({k: np.array(v) for k, v in to_arrays(found).items()}))
    run.table("components").write(
        "class-000001",
        pa.table(
            {
                "class_index": [1] * 4,
                "class_name": ["x"] * 4,
                "component": range(4),
                "mined_ids": [["second-41", "second-40"]] * 4,
                "mined_alphas": [[2.0, 1.0]] * 4,
                "mined_p": [[0.5, 0.25]] * 4,
            }
        ),
    )
    return OpenedRun(run.folder), features, labels


def test_alphas_are_the_definitions(made) -> None:
    run, features, labels = made
    found = class_alphas(run, 1)
    rows = [i for i in range(2 * EACH) if labels[i] == 1]
    assert list(found.ids) == [f"main-{i}" for i in rows]
    assert found.total == len(rows)
    kept = read_components(run, 1)
    psi = features[rows].astype(np.float64) * kept.weight
    v = kept.vectors
    expected = v.sum(1) * ((psi - psi.mean(0)) @ v.T)
    np.testing.assert_allclose(found.alphas, expected, atol=1e-6)
    best = int(expected[:, 2].argmax())
    assert found.top(2, 1)[0][:2] == (f"main-{rows[best]}", pytest.approx(expected[best, 2]))


def test_a_component_without_pictures_gets_those_of_the_run(made) -> None:
    run, _, _ = made
    one = bare({"class_index": 1, "class_name": "x", "component": 2})
    found = filled(run, one, lambda k: class_alphas(run, k))
    assert [e.image_id for e in found.mined] == ["second-41", "second-40"]
    assert [e.thumb for e in found.mined] == [b"41", b"40"]
    assert [e.p_class for e in found.mined] == [0.5, 0.25]
    assert len(found.exemplars) == 6
    assert all(e.thumb == e.image_id.removeprefix("main-").encode() for e in found.exemplars)
    assert mined_images(run, (1, 2))[0] == ("second-41", 2.0, 0.5)
    assert mined_images(run, (2, 0)) == []
    assert filled(run, one, lambda k: None).exemplars == ()


def test_thumbnails_are_of_the_collection_that_is_asked(made) -> None:
    run, _, _ = made
    assert thumbs(run, ["main-3", "second-41", "nowhere"], "main") == {"main-3": b"3"}


def test_neighbours_are_by_the_cosine_of_directions(made) -> None:
    run, _, _ = made
    d = read_components(run, 1).directions
    expected = {
        i: float(d[0] @ d[i] / np.linalg.norm(d[0]) / np.linalg.norm(d[i])) for i in (1, 2, 3)
    }
    found = neighbours(run, (1, 0), 2)
    assert [i for i, _ in found] == sorted(expected, key=lambda i: -expected[i])[:2]
    assert dict(found) == pytest.approx({i: expected[i] for i, _ in found})


def test_mistaken_images_come_first_and_the_nearest_are_the_nearest(made) -> None:
    run, features, _ = made
    first = images_of_class(run, 1, 4)
    assert [one.predicted == 1 for one in first] == [False, True, True, True]
    assert first[0].image_id == "main-1"
    np.testing.assert_array_equal(first[0].features, features[1].astype(np.float64))
    near, seen, total = nearest_images(run, first[0].features, 3)
    far = np.linalg.norm(features[: 2 * EACH].astype(np.float32) - features[1], axis=1)
    assert [name for name, _ in near] == [f"main-{i}" for i in np.argsort(far)[:3]]
    assert (seen, total) == (2 * EACH, 2 * EACH)


def test_the_map_is_along_the_principal_components(made) -> None:
    run, features, labels = made
    found = map_of_images(run)
    rows = [int(name.removeprefix("main-")) for name in found.ids]
    assert sorted(rows) == list(range(2 * EACH))
    assert found.total == 2 * EACH
    np.testing.assert_array_equal(found.classes, labels[rows])
    centred = features[rows].astype(np.float64) - features[: 2 * EACH].astype(np.float64).mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(found.map.places), np.abs(u * s)[:, :2], atol=1e-3)
    np.testing.assert_allclose(found.map.share, (s**2 / (s**2).sum())[:2], atol=1e-4)


def test_components_that_see_the_same_are_at_the_same_place(made) -> None:
    run, _, _ = made
    places = map_of_components(run, [(1, 0), (1, 1), (1, 2), (1, 0)]).places
    np.testing.assert_allclose(places[0], places[3], atol=1e-6)
    assert np.linalg.norm(places[0] - places[1]) > 0.1
