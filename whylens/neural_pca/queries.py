"""What an index is asked: exemplars of a component or a neuron, neighbours, mining.

Every function returns the answers of one question, the best first.
"""

import importlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whylens.errors import UsageError
from whylens.neural_pca.components import ClassComponents
from whylens.neural_pca.index.searchable import BLOCK, Searchable


@dataclass(frozen=True)
class Found:
    """Images, the best first: rows [n] into the index, their ids, and values [n].

    A value is alpha_l (exemplars of a component), the activation phi_n (of a neuron), or a
    Euclidean distance (neighbours).
    """

    rows: NDArray[np.int64]
    ids: tuple[str, ...]
    values: NDArray[np.float64]


def component_exemplars(
    index: Searchable,
    components: ClassComponents,
    component: int,
    count: int,
    *,
    among: NDArray[np.integer] | None = None,
    without: NDArray[np.integer] | None = None,
) -> Found:
    """The images that activate a component most, with their alphas.

    `among` the class's rows they are its exemplars; `without` those, in any collection, they are
    what is mined for the sufficiency check. Over all rows they are exact maximum inner product
    search, up to what the index's kind rounds.

    Raises
    ------
    UsageError
        If the class has no such component, or the index's features have another size.
    """
    _check(component, len(components.variances), "component", f"class {components.class_index}")
    found = _search(index, components.directions[component], count, among, without)
    return Found(found.rows, found.ids, found.values - components.offsets[component])


def neuron_exemplars(
    index: Searchable,
    neuron: int,
    count: int,
    *,
    among: NDArray[np.integer] | None = None,
    without: NDArray[np.integer] | None = None,
) -> Found:
    """The images that activate the feature phi_n most.

    Raises
    ------
    UsageError
        If the features have no such neuron.
    """
    _check(neuron, index.size, "neuron", "the classifier's features")
    unit = np.zeros(index.size, np.float32)
    unit[neuron] = 1
    return _search(index, unit, count, among, without)


def neighbours(
    index: Searchable,
    image_id: str,
    count: int,
    *,
    components: ClassComponents | None = None,
    among: NDArray[np.integer] | None = None,
    without: NDArray[np.integer] | None = None,
) -> Found:
    """The images nearest to one, itself left out: in phi, or in the alphas of a class's components.

    Distances are no inner products, so every row is read once; as exact as what the index keeps.

    Raises
    ------
    UsageError
        If the index has no such image, or its features another size than the components.
    """
    row = index.row_of(image_id)
    rows = np.arange(len(index.ids)) if among is None else np.unique(np.asarray(among, np.int64))
    rows = np.setdiff1d(rows, [row] if without is None else np.append(without, row))
    directions = None if components is None else components.directions.astype(np.float32)
    if directions is not None and directions.shape[1] != index.size:
        raise UsageError(
            f"the components are of {directions.shape[1]} features, the index holds {index.size}"
        )
    return _nearest(index, index.features(np.asarray([row])), rows, count, directions)


def nearest(index: Searchable, features: NDArray[np.floating], count: int) -> Found:
    """The images nearest in phi to an image that is not in the index, of features [D].

    Raises
    ------
    UsageError
        If the index holds features of another size.
    """
    if features.shape != (index.size,):
        raise UsageError(f"features of shape {features.shape}, but the index holds {index.size}")
    at = np.asarray(features, np.float32)[None]
    return _nearest(index, at, np.arange(len(index.ids)), count, None)


def _nearest(
    index: Searchable,
    at: NDArray[np.float32],
    rows: NDArray[np.integer],
    count: int,
    directions: NDArray[np.float32] | None,
) -> Found:
    """Rows nearest to features `at` [1, D], read block by block; in alphas, given directions."""
    faiss = importlib.import_module("faiss")

    def placed(features: NDArray[np.float32]) -> NDArray[np.float32]:
        return features if directions is None else np.ascontiguousarray(features @ directions.T)

    best = np.zeros(0, np.int64)
    distances = np.zeros(0)
    for start in range(0, len(rows), BLOCK):
        part = rows[start : start + BLOCK]
        seen = placed(index.features(part))
        squared, places = faiss.knn(placed(at), seen, min(count, len(part)))
        distances = np.concatenate([distances, np.sqrt(np.maximum(squared[0], 0))])
        best = np.concatenate([best, part[places[0]]])
        order = np.argsort(distances, kind="stable")[:count]
        distances, best = distances[order], best[order]
    return Found(best, tuple(index.ids[r] for r in best), distances)


def _search(
    index: Searchable,
    query: NDArray[np.floating],
    count: int,
    among: NDArray[np.integer] | None,
    without: NDArray[np.integer] | None,
) -> Found:
    scores, rows = index.search(query[None], count, among=among, without=without)
    there = rows[0] >= 0
    kept = rows[0][there]
    return Found(kept, tuple(index.ids[r] for r in kept), scores[0][there].astype(np.float64))


def _check(number: int, size: int, kind: str, owner: str) -> None:
    if not 0 <= number < size:
        raise UsageError(f"{owner} has {size} {kind}s, from 0 to {size - 1}: there is no {number}")
