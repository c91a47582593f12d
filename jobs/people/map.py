"""A run's components or images as points in the plane: where they are, and who is together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from whylens.jobs.findings.stored import read_components
from whylens.jobs.images.embedded import features_of, shown_classes
from whylens.jobs.report.parts.finding import Key
from whylens.runs.opened import OpenedRun
from whylens.runs.readable import UNIT

# Images of a map, at most: parts are drawn from a seed until there are so many.
MOST_IMAGES = 5_000


@dataclass(frozen=True)
class Places:
    """Points of the plane.

    places [N, 2] along the two directions of largest variance, `share` [2] of it that each carries
    """

    places: np.ndarray
    share: np.ndarray


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


def in_the_plane(rows: np.ndarray) -> Places:
    """Rows [N, D] along their first two principal components; nothing is scaled."""
    from sklearn.decomposition import PCA

    if len(rows) < 3 or not np.ptp(rows, axis=0).any():
        return Places(np.zeros((len(rows), 2)), np.zeros(2))
    found = PCA(2, svd_solver="randomized", random_state=0).fit(rows)
    return Places(found.transform(rows), found.explained_variance_ratio_)


def map_of_components(run: OpenedRun, keys: list[Key]) -> Places:
    """Components by their directions d_l, each scaled to length 1: how alike is what they see."""
    of = {k: read_components(run, k).directions for k in dict.fromkeys(k for k, _ in keys)}
    rows = np.stack([of[k][component] for k, component in keys])
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return in_the_plane(rows / np.maximum(length, 1e-12))


def map_of_images(run: OpenedRun, most: int = MOST_IMAGES, seed: int = 0) -> ImagePoints:
    """Images of the main collection by their features, of whole parts in a random order."""
    table = run.table("images")
    listing = table.scan(("id", "collection"))
    main = listing["collection"].to_numpy() == "main"
    units = listing.filter(main)[UNIT].unique().to_pylist()
    ids: list[str] = []
    names: dict[int, str] = {}
    classes, predicted, features = [], [], []
    for place in np.random.default_rng(seed).permutation(len(units)):
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
        if len(ids) >= most:
            break
    rows = np.concatenate(features)[:most]
    return ImagePoints(
        tuple(ids[:most]),
        np.concatenate(classes)[:most],
        np.concatenate(predicted)[:most],
        names,
        in_the_plane(rows),
        int(main.sum()),
    )
