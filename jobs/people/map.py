"""The map job: a run's images and components as points in the plane, to see what lies together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from whylens.errors import UsageError
from whylens.jobs.columns import columns
from whylens.jobs.findings.stored import COMPONENTS, read_components
from whylens.jobs.images.embedded import IMAGES, features_of, shown_classes
from whylens.jobs.registry import Job
from whylens.jobs.report.parts.finding import Key, key_of
from whylens.jobs.spec import JobSpec
from whylens.runs import OpenedRun, Run
from whylens.runs.readable import UNIT
from whylens.settings import Settings

MAP = "map"
# A row is a map, in a unit of its own: of images, with their ids, classes and predictions, or of
# components, with theirs. `share`: of the variance, that each axis carries; none of UMAP's.
SCHEMA = pa.schema(
    [
        *columns(pa.string(), "of", "method"),
        ("share", pa.list_(pa.float64())),
        ("total", pa.int64()),
        *columns(pa.list_(pa.string()), "ids", "class_names"),
        *columns(pa.list_(pa.int32()), "classes", "predicted", "components"),
        *columns(pa.list_(pa.float32()), "x", "y"),
    ]
)


class MapSettings(Settings):
    """How points find their places."""

    method: Literal["pca", "umap"] = Field(
        "pca",
        description="pca: along the two directions of largest variance, far is far; umap: "
        "neighbours stay together, far means little (pip install 'whylens[map]').",
    )
    images: int = Field(
        5_000,
        ge=3,
        description="Images on the map, at most: parts are drawn until there are so many.",
    )
    neighbours: int = Field(15, ge=2, description="umap: points that are kept together.")
    seed: int = Field(0, ge=0, description="Of the parts that are drawn, and of umap.")


class MapSpec(JobSpec):
    """Images and components in two dimensions."""

    source: str = Field(description="Run folder of an embed job, or of one that builds on it.")
    map: MapSettings = MapSettings()


# What a map is without a job.
PRINCIPAL = MapSettings()


@dataclass(frozen=True)
class Places:
    """Points of the plane.

    places [N, 2]; `share` [2] of the variance that each axis carries, empty where axes mean nothing
    """

    places: np.ndarray
    share: tuple[float, ...]


@dataclass(frozen=True)
class ImagePoints:
    """Images of the main collection on the map.

    ids [N], classes [N] and predictions [N] by index, names by index; of `total` images
    """

    ids: tuple[str, ...]
    classes: np.ndarray
    predicted: np.ndarray
    names: Mapping[int, str]
    map: Places
    total: int


@dataclass(frozen=True)
class ComponentPoints:
    """Components on the map, as they are known by class and number."""

    keys: tuple[Key, ...]
    map: Places


def in_the_plane(rows: np.ndarray, settings: MapSettings) -> Places:
    """Rows [N, D] in two dimensions; nothing is scaled.

    Raises
    ------
    UsageError
        If umap is asked for and not installed.
    """
    if len(rows) < 3 or not np.ptp(rows, axis=0).any():
        return Places(np.zeros((len(rows), 2)), (0.0, 0.0))
    if settings.method == "umap":
        return Places(_umap(rows, settings), ())
    from sklearn.decomposition import PCA

    found = PCA(2, svd_solver="randomized", random_state=0).fit(rows)
    return Places(found.transform(rows), tuple(found.explained_variance_ratio_.tolist()))


def _umap(rows: np.ndarray, settings: MapSettings) -> np.ndarray:
    try:
        from umap import UMAP
    except ImportError as error:
        raise UsageError(
            f"umap can't be imported ({error}): pip install 'whylens[map]', or map.method=pca"
        ) from error
    # A seed makes it one thread; that of a few points asks for fewer neighbours, and is drawn at
    # random where eigenvectors of so small a graph can't be had.
    made = UMAP(
        n_neighbors=min(settings.neighbours, len(rows) - 1),
        random_state=settings.seed,
        n_jobs=1,
        init="spectral" if len(rows) > 10 else "random",
    )
    places: np.ndarray = made.fit_transform(rows)
    return places


def map_of_components(
    run: OpenedRun, keys: Sequence[Key], settings: MapSettings = PRINCIPAL
) -> Places:
    """Components by their directions d_l, each scaled to length 1: how alike is what they see."""
    of = {k: read_components(run, k).directions for k in dict.fromkeys(k for k, _ in keys)}
    rows = np.stack([of[k][component] for k, component in keys])
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return in_the_plane(rows / np.maximum(length, 1e-12), settings)


def map_of_images(run: OpenedRun, settings: MapSettings = PRINCIPAL) -> ImagePoints:
    """Images of the main collection by their features, of whole parts in a random order."""
    table = run.table(IMAGES)
    listing = table.scan(("id", "collection"))
    main = listing["collection"].to_numpy() == "main"
    units = listing.filter(main)[UNIT].unique().to_pylist()
    ids: list[str] = []
    names: dict[int, str] = {}
    classes, predicted, features = [], [], []
    for place in np.random.default_rng(settings.seed).permutation(len(units)):
        part = table.read(
            ("id", "label", "features", "top5_classes", "collection", "class_name"), [units[place]]
        )
        part = part.filter(np.asarray(part["collection"].to_numpy() == "main"))
        features.append(features_of(part))
        ids += part["id"].to_pylist()
        classes.append(shown_classes(part))
        named = zip(part["label"].to_pylist(), part["class_name"].to_pylist(), strict=True)
        names.update({k: name for k, name in named if k >= 0 and name})
        predicted.append(np.array([top[0] for top in part["top5_classes"].to_pylist()]))
        if len(ids) >= settings.images:
            break
    rows = np.concatenate(features)[: settings.images]
    return ImagePoints(
        tuple(ids[: settings.images]),
        np.concatenate(classes)[: settings.images],
        np.concatenate(predicted)[: settings.images],
        names,
        in_the_plane(rows, settings),
        int(main.sum()),
    )


def image_points(run: OpenedRun) -> ImagePoints:
    """The map of images that a job made, else one along the principal components."""
    if (row := _stored(run, IMAGES)) is None:
        return map_of_images(run)
    return ImagePoints(
        tuple(row["ids"]),
        np.asarray(row["classes"]),
        np.asarray(row["predicted"]),
        {k: name for k, name in zip(row["classes"], row["class_names"], strict=True) if name},
        _placed(row),
        row["total"],
    )


def component_points(run: OpenedRun, keys: Sequence[Key]) -> ComponentPoints:
    """The map of components that a job made, of those wanted, else along principal components."""
    if (row := _stored(run, COMPONENTS)) is None:
        return ComponentPoints(tuple(keys), map_of_components(run, keys))
    made, wanted = list(zip(row["classes"], row["components"], strict=True)), set(keys)
    kept = [place for place, key in enumerate(made) if key in wanted]
    found = _placed(row)
    return ComponentPoints(
        tuple(made[place] for place in kept), Places(found.places[kept], found.share)
    )


def _stored(run: OpenedRun, of: str) -> dict[str, Any] | None:
    """The row of a map; None where no job made it."""
    if not run.has(MAP) or of not in run.table(MAP).units():
        return None
    row: dict[str, Any] = run.table(MAP).at(of, 0)
    return row


def _placed(row: Mapping[str, Any]) -> Places:
    places = np.stack([np.asarray(row["x"]), np.asarray(row["y"])], axis=1)
    return Places(places, tuple(row["share"]))


def place_all(run: Run, source: OpenedRun, settings: MapSettings) -> None:
    """Write what is missing of the maps of images and of components."""
    table = run.table(MAP)
    if not table.done(IMAGES):
        seen = map_of_images(source, settings)
        classes = seen.classes.tolist()
        row = {
            "ids": list(seen.ids),
            "classes": classes,
            "class_names": [seen.names.get(k, "") for k in classes],
            "predicted": seen.predicted.tolist(),
            "total": seen.total,
        }
        table.write(IMAGES, _row(IMAGES, settings, seen.map, row))
    if source.has(COMPONENTS) and not table.done(COMPONENTS):
        listed = source.table(COMPONENTS).read(("class_index", "component")).to_pylist()
        keys = [key_of(one) for one in listed]
        row = {
            "classes": [k for k, _ in keys],
            "components": [component for _, component in keys],
            "total": len(keys),
        }
        found = map_of_components(source, keys, settings)
        table.write(COMPONENTS, _row(COMPONENTS, settings, found, row))


def _row(of: str, settings: MapSettings, found: Places, known: Mapping[str, Any]) -> pa.Table:
    row = {
        "of": of,
        "method": settings.method,
        "share": list(found.share),
        "x": found.places[:, 0].tolist(),
        "y": found.places[:, 1].tolist(),
        **known,
    }
    return pa.Table.from_pylist([row], schema=SCHEMA)


def run(spec: MapSpec) -> Run:
    """Place a run's images and components."""
    with JOB.working(spec) as run, run.stage(MAP):
        source = OpenedRun(spec.source)
        place_all(run, source, spec.map)
        for problem in source.problems:
            run.warn(problem)
    return run


JOB = Job(
    name="map",
    help="Images and components in two dimensions, for the dashboard.",
    spec=MapSpec,
    run=run,
    tables=(MAP,),
)
