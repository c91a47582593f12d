"""Systematic errors: real images, without a class's object, that a classifier fails on alike.

Generated images say what a classifier may rely on. Their nearest real images say whether it does:
explore from the generated images, exploit from each real image that fails, until no new one comes,
then group those that fail alike. (Augustin, Neuhaus and Hein, "DASH", 2025, search so for
hallucinations of vision-language models.)
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from whylens.neural_pca.index.searchable import BLOCK, Searchable
from whylens.neural_pca.strata import LEVEL, OverStrata, over_strata

Rows = NDArray[np.int64]
Flags = NDArray[np.bool_]
Unit = NDArray[np.float32]

# An image fails alike where at least this part of the nearest images without the object fail too.
ALIKE = 0.5
# Images whose features have a larger cosine are copies of each other.
COPY = 0.9995
# Nearest images by which an image is told to fail alike.
NEIGHBOURS = 10
# A judge is not sure of an image that has more evidence of the object than all but this part of the
# images that don't show it: one-sided, as verdicts on components are.
DOUBT = (1 - LEVEL) / 2


@dataclass(frozen=True)
class Gathered:
    """Real images that a search came by, in the order of their rounds; arrays are [N].

    rows
        Into the index; copies of each other are there once.
    rounds
        The round that found each: 0 by the generated images, later ones by images that fail.
    failed
        Those that fail: called the class, of whose object they surely show nothing.
    absent
        Those that do not show it.
    exhausted
        Whether the last round found no new image that fails.
    """

    rows: Rows
    rounds: Rows
    failed: Flags
    absent: Flags
    exhausted: bool


@dataclass(frozen=True)
class SystematicError:
    """Images that fail alike.

    rows
        Those that fail, into the index, [M], the most typical first.
    near
        They and the nearest images to each, without the object, whether they fail or not, [S].
    rate, low, high
        The part of `near` that fails, and its interval of `strata.LEVEL` (Wilson's).
    probability
        Mean p_k over `near`, and its interval over strata: classes that the images show, or are
        most taken for beside k.
    looks_like
        The stratum of more than half of `rows`, where images of several were gathered: then two
        classes look alike. None: images of many classes fail, by something that they share.
    """

    rows: Rows
    near: Rows
    rate: float
    low: float
    high: float
    probability: OverStrata
    looks_like: int | None


def nearest_rows(
    index: Searchable, queries: NDArray[np.floating], count: int, among: Rows | None = None
) -> Rows:
    """The rows [Q, count] whose features have the largest cosine with each query [Q, D].

    Read block by block, as exact as what the index keeps; -1 where there are fewer.
    """
    faiss = importlib.import_module("faiss")
    at, rows = _unit(queries), np.arange(len(index.ids)) if among is None else among
    scores = np.zeros((len(at), 0), np.float32)
    best = np.zeros((len(at), 0), np.int64)
    for start in range(0, len(rows), BLOCK):
        part = rows[start : start + BLOCK]
        found, places = faiss.knn(
            at, _unit(index.features(part)), min(count, len(part)), faiss.METRIC_INNER_PRODUCT
        )
        scores = np.concatenate([scores, found], 1)
        best = np.concatenate([best, part[places]], 1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
        scores, best = np.take_along_axis(scores, order, 1), np.take_along_axis(best, order, 1)
    return np.pad(best, ((0, 0), (0, count - best.shape[1])), constant_values=-1)


def surely_absent(evidence: NDArray[np.floating], others: NDArray[np.floating]) -> Flags:
    """Of which images, [N], a judge is sure that they do not show an object.

    A judge overlooks objects that are small, faint or half hidden, and gives these images little of
    the class, but more than it gives others. So an image's p-value is the part of images without
    the object that have as much evidence of it, and it is sure above DOUBT: fewer than twenty
    others tell nothing. (Conformal p-values: Vovk, Gammerman and Shafer, "Algorithmic Learning in a
    Random World", 2005.)

    Parameters
    ----------
    evidence
        The judge's p of the class, of images that it says are without the object, [N].
    others
        The same of images that it says are without it, too, and that nobody calls the class, drawn
        from all of a collection, [M].
    """
    ranked = np.sort(others)
    as_much = len(ranked) - np.searchsorted(ranked, evidence, side="left")
    sure: Flags = (as_much + 1) / (len(ranked) + 1) > DOUBT
    return sure


def gather(
    index: Searchable,
    queries: NDArray[np.floating],
    judge: Callable[[Rows], tuple[Flags, Flags]],
    *,
    count: int = 30,
    rounds: int = 10,
) -> Gathered:
    """Explore from generated images, features [Q, D], then exploit what fails.

    Parameters
    ----------
    judge
        Which of some rows [n] do not show the object, and which of these fail, [n] each.
    count
        Nearest images that each query brings.
    rounds
        At most so many.
    """
    seen = np.zeros(len(index.ids), bool)
    rows, which = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    absent, failed = [np.zeros(0, bool)], [np.zeros(0, bool)]
    known = np.zeros((0, index.size), np.float32)
    frontier, exhausted = np.asarray(queries), False
    for number in range(rounds):
        near = np.unique(nearest_rows(index, frontier, count))
        new = near[(near >= 0) & ~seen[near]]
        seen[new] = True
        features = _unit(index.features(new)) if len(new) else known[:0]
        fresh = _no_copies(features, known)
        new, known = new[fresh], np.concatenate([known, features[fresh]])
        without, fails = judge(new) if len(new) else (np.zeros(0, bool), np.zeros(0, bool))
        rows.append(new)
        which.append(np.full(len(new), number))
        absent.append(without)
        failed.append(without & fails)
        if not failed[-1].any():
            exhausted = True
            break
        frontier = index.features(new[failed[-1]])
    return Gathered(
        np.concatenate(rows),
        np.concatenate(which),
        np.concatenate(failed),
        np.concatenate(absent),
        exhausted,
    )


def systematic_errors(
    index: Searchable,
    found: Gathered,
    probabilities: NDArray[np.floating],
    strata: NDArray[np.integer],
    *,
    least: int = 10,
    neighbours: int = NEIGHBOURS,
) -> list[SystematicError]:
    """Groups of images that fail alike, the largest first.

    An image fails alike where most of its nearest images without the object, of all that were
    gathered, fail too: single errors on the edge of a class do not. Two such images are of one
    group where each is among the nearest of the other, or a chain of such images joins them; what
    is left joins the group that most of its nearest images are of.

    Parameters
    ----------
    probabilities, strata
        p_k and stratum of each gathered image, [N].
    least
        Smaller groups are left out.
    neighbours
        How many nearest images are looked at.
    """
    # Here, since it takes half a second, which who only shows errors need not wait for.
    from scipy.stats import binomtest

    absent, failed = np.flatnonzero(found.absent), np.flatnonzero(found.failed)
    if len(failed) < least:
        return []
    near = nearest_rows(index, index.features(found.rows[failed]), neighbours + 1,
                        np.sort(found.rows[absent]))  # fmt: skip
    place = {int(row): at for at, row in enumerate(found.rows)}
    # [F, neighbours] places among the gathered images, each image itself left out.
    around = [
        [place[int(row)] for row in line if row >= 0 and row != own][:neighbours]
        for line, own in zip(near, found.rows[failed], strict=True)
    ]
    alike = np.array([bool(line) and found.failed[line].mean() >= ALIKE for line in around])
    kept = {int(at): number for number, at in enumerate(failed) if alike[number]}
    pairs = [
        (kept[int(failed[number])], kept[other])
        for number in np.flatnonzero(alike)
        for other in around[number]
        if other in kept and int(failed[number]) in around[kept[other]]
    ]
    joined = csr_matrix(
        (np.ones(len(pairs)), tuple(np.array(pairs, int).reshape(-1, 2).T)), (len(failed),) * 2
    )
    _, group = connected_components(joined, directed=False)
    # Images that are among the nearest of none join the group that most of their nearest are of.
    cores = np.flatnonzero(np.bincount(group[alike], minlength=len(group)) >= least)
    for number in np.flatnonzero(alike & ~np.isin(group, cores)):
        others = np.array([group[kept[other]] for other in around[number] if other in kept], int)
        counts = np.bincount(others[np.isin(others, cores)], minlength=1)
        if counts.any():
            group[number] = counts.argmax()
    errors = []
    for number in np.unique(group[alike]):
        members = np.flatnonzero(alike & (group == number))
        if len(members) < least:
            continue
        wide = np.unique([failed[m] for m in members] + [at for m in members for at in around[m]])
        interval = binomtest(int(found.failed[wide].sum()), len(wide)).proportion_ci(
            LEVEL, "wilson"
        )
        features = _unit(index.features(found.rows[failed[members]]))
        typical = np.argsort(-(features @ features.mean(0)), kind="stable")
        errors.append(
            SystematicError(
                found.rows[failed[members[typical]]],
                found.rows[wide],
                float(found.failed[wide].mean()),
                float(interval.low),
                float(interval.high),
                over_strata(np.asarray(probabilities[wide], np.float64), strata[wide]),
                _majority(strata[failed[members]], strata[absent]),
            )
        )
    return sorted(errors, key=lambda error: -len(error.rows))


def _majority(strata: NDArray[np.integer], of: NDArray[np.integer]) -> int | None:
    """The stratum of more than half, None where there is none or `of` holds no other."""
    found, counts = np.unique(strata, return_counts=True)
    if counts.max() <= len(strata) / 2 or len(np.unique(of)) < 2:
        return None
    return int(found[counts.argmax()])


def most_alike(features: NDArray[np.floating], to: NDArray[np.floating], count: int) -> Rows:
    """Rows of features [N, D], the largest cosines with `to` [D] first; at most `count`."""
    rows: Rows = np.argsort(-(_unit(features) @ _unit(to[None])[0]), kind="stable")[:count]
    return rows


def _unit(features: NDArray[np.floating]) -> Unit:
    rows = np.ascontiguousarray(features, np.float32)
    length = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    unit: Unit = rows / length
    return unit


def _no_copies(features: Unit, known: Unit) -> Flags:
    """Which rows are copies neither of known ones nor of an earlier one."""
    fresh = np.ones(len(features), bool)
    if len(known):
        fresh &= (features @ known.T).max(1) < COPY
    alike = np.triu(features @ features.T >= COPY, 1)
    for row in range(len(features)):
        if fresh[row]:
            fresh &= ~alike[row]
    return fresh
