"""The map job: what it writes is what the dashboard draws, and UMAP keeps neighbours together."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from whylens.classifiers import load_classifier
from whylens.errors import UsageError
from whylens.jobs.people.map import (
    MapSettings,
    MapSpec,
    component_points,
    image_points,
    in_the_plane,
    map_of_components,
    map_of_images,
    run,
)
from whylens.runs import OpenedRun

embedded_run = runpy.run_path(str(Path(__file__).parents[1] / "embedded_run.py"))
# Components that the run has of class 1.
KEPT = 6


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of embedded images with components of one class."""
    made = embedded_run["embedded"](
        tmp_path_factory.mktemp("runs"), load_classifier("planted:biased")
    )
    kept = {"class_index": [1] * KEPT, "component": list(range(KEPT))}
    made[0].table("components").write("class-000001", pa.table(kept))
    return Path(made[0].folder)


def test_the_dashboard_draws_what_the_job_placed(source: Path, tmp_path: Path) -> None:
    settings = MapSettings(images=120, seed=3)
    done = run(MapSpec(source=str(source), out=str(tmp_path / "map"), map=settings))
    opened = OpenedRun(done.folder)
    expected, found = map_of_images(opened, settings), image_points(opened)
    assert found.ids == expected.ids
    assert len(found.ids) == 120
    assert found.total == embedded_run["COUNT"]
    assert found.names == expected.names
    np.testing.assert_array_equal(found.classes, expected.classes)
    np.testing.assert_array_equal(found.predicted, expected.predicted)
    np.testing.assert_allclose(found.map.places, expected.map.places, rtol=1e-5)
    assert found.map.share == expected.map.share
    # Without a job other images are drawn: what is above is the job's map.
    assert image_points(OpenedRun(str(source))).ids != found.ids


def test_components_are_placed_where_they_are_asked_for(source: Path, tmp_path: Path) -> None:
    done = run(MapSpec(source=str(source), out=str(tmp_path / "map")))
    opened = OpenedRun(done.folder)
    keys = [(1, 2), (1, 0), (7, 0)]
    found = component_points(opened, keys)
    assert set(found.keys) == {(1, 0), (1, 2)}
    every = component_points(opened, [(1, c) for c in range(KEPT)])
    expected = map_of_components(opened, every.keys).places
    np.testing.assert_allclose(every.map.places, expected, rtol=1e-4, atol=1e-6)
    place = {key: every.map.places[i] for i, key in enumerate(every.keys)}
    for key, where in zip(found.keys, found.map.places, strict=True):
        np.testing.assert_array_equal(where, place[key])


def test_without_umap_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(UsageError, match=r"whylens\[map\]"):
        in_the_plane(np.eye(5), MapSettings(method="umap"))


@pytest.mark.slow
def test_umap_keeps_neighbours_together() -> None:
    pytest.importorskip("umap")
    rng = np.random.default_rng(0)
    of = np.repeat(np.arange(4), 40)
    rows = rng.normal(size=(4, 30))[of] * 4 + rng.normal(size=(160, 30))
    found = in_the_plane(rows, MapSettings(method="umap"))
    assert found.share == ()
    far = np.linalg.norm(found.places[:, None] - found.places[None], axis=-1)
    np.fill_diagonal(far, np.inf)
    assert (of[far.argmin(1)] == of).all()
    small = in_the_plane(rows[:5], MapSettings(method="umap"))
    assert small.places.shape == (5, 2)
