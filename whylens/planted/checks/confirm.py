"""`whylens planted check --confirm`: do generated images lead to the real ones that fail?

Images on which two planted classifiers disagree are generated, from prompts that know no link, and
are queries to many unlabelled drawings. What shows the object is said by a judge. The biased
classifier's systematic errors are compared with the planted links; the balanced one has none.
Nothing planted is what comes with the classes that have no link: an error of theirs is true if its
drawings show nothing planted, and are called so for that: without the object, and not with it
before another context.
"""

import logging
import os
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax

from whylens.classifiers import Classifier, load_classifier
from whylens.diffusion import load_sampler
from whylens.images.tensors import to_batch
from whylens.neural_pca.index import FeatureIndex
from whylens.neural_pca.sufficiency import best_two, strata_of
from whylens.neural_pca.systematic import SystematicError, gather, surely_absent, systematic_errors
from whylens.planted.checks import disagreements
from whylens.planted.checks.disagreements import Plain, best_starts, plain_images, pull
from whylens.planted.checks.discovery import ForContext, follows_context, shows, shows_nothing
from whylens.planted.checks.judges import BATCH, features
from whylens.planted.checks.weights import save_sheet
from whylens.planted.drawing.data import Drawings, draw_many
from whylens.planted.drawing.world import BACKGROUNDS, COMPANIONS, LINKS, OBJECTS, Scene

logger = logging.getLogger(__name__)

SEED = 931
# Generated images a class, and seeds of plain images a prompt.
IMAGES, SEEDS = 2, 1
# Classes whose images are optimised together, and kept when they are done.
TOGETHER = disagreements.BATCH // IMAGES
# Backgrounds before which each companion is shown.
BEHIND = ("snow", "desert")
# An image is without the object where the judge's p of it is at most this.
ABSENT = 0.1
# An error is a link's where so many of its images show the feature without the object.
SHOWS = 0.9


def check_confirm(work: Path, drawings: int = 20_000) -> dict[str, Any]:
    """Generate, search, compare; one flat record, pictures in `work`.

    precision: systematic errors of the biased classifier at least 90 % of whose images show what
    came with their class without its object, true ones as the module says; recall: links with such
    an error; clusters: all of its errors but those of two classes that look alike (confusions);
    balanced_*: those of the balanced classifier, which saw no link.
    """
    cores = len(os.sched_getaffinity(0))
    pool = draw_many("unlinked", drawings, SEED, folder=work / "data", workers=cores)
    judge = load_classifier("planted:judge_object")
    there = probabilities_of("judge_object", pool, work)[:, : len(OBJECTS)]
    logger.info("the judge %s looked at %d drawings", judge.name, len(pool))
    record: dict[str, Any] = {"drawings": drawings}

    @cache  # Both classifiers' starts are among the same images.
    def tried() -> list[Plain]:
        return plain_images(load_sampler("planted"), prompts(), range(SEEDS))

    for name, other in (("biased", "balanced"), ("balanced", "biased")):
        queries, classes = generated(name, other, tried, work)
        found = search(name, queries, classes, pool, there, work)
        prefix = "" if name == "biased" else "balanced_"
        classifier = load_classifier(f"planted:{name}")
        follows = partial(follows_context, classifier, ("unlinked", SEED))
        record |= scored(found, pool, prefix, follows)
        for k, errors in found.items():
            for place, error in enumerate(errors):
                path = work / f"confirmed-{name}-{OBJECTS[k]}-{place}.png"
                save_sheet(pool.images[error.rows], path, columns=8, rows=2)
    return record


def prompts() -> list[str]:
    """Every background, and every companion, without an object: nothing of any link is known."""
    return [Scene(None, background, None, ()).caption for background in BACKGROUNDS] + [
        Scene(None, background, companion, ()).caption
        for companion in COMPANIONS
        for background in BEHIND
    ]


def generated(
    name: str, other: str, tried: Callable[[], list[Plain]], work: Path
) -> tuple[torch.Tensor, NDArray[np.int64]]:
    """Images [Q, 3, S, S] that one classifier calls classes [Q] and the other does not.

    They start at the plain images `tried`, and are kept, some classes at a time: a check that was
    stopped goes on.
    """
    parts = [
        (range(len(OBJECTS))[start : start + TOGETHER], work / f"queries-{name}-{start:02d}.npz")
        for start in range(0, len(OBJECTS), TOGETHER)
    ]
    for some, path in parts:
        if path.exists():
            continue
        a, b = (load_classifier(f"planted:{one}") for one in (name, other))
        starts = [start for k in some for start in best_starts(tried(), a, b, k, IMAGES)]
        classes = np.repeat(np.asarray(some), IMAGES)
        pulled = pull(load_sampler("planted"), a, b, starts, classes.tolist())
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".tmp.npz")
        np.savez(aside, images=pulled.images.numpy(), classes=classes)
        aside.replace(path)
    images, of = [], []
    for _, path in parts:
        with np.load(path) as kept:
            images.append(kept["images"])
            of.append(kept["classes"])
    return torch.from_numpy(np.concatenate(images)), np.concatenate(of)


def search(
    name: str,
    queries: torch.Tensor,
    classes: NDArray[np.int64],
    pool: Drawings,
    there: NDArray[np.float32],
    work: Path,
) -> dict[int, list[SystematicError]]:
    """The systematic errors of each class that drawings show."""
    classifier = load_classifier(f"planted:{name}")
    rows = features_of(name, pool, work)
    p, index = probabilities(classifier, rows), index_of(classifier, rows)
    asked, unlabelled = features(classifier, queries).numpy(), np.full(len(pool), -1)
    found = {}
    for k in range(len(OBJECTS)):
        absent, called = there[:, k] <= ABSENT, p.argmax(1) == k
        fails = called & surely_absent(there[:, k], there[absent & ~called, k])

        def judged(
            some: NDArray[np.int64], absent: NDArray[np.bool_] = absent,
            fails: NDArray[np.bool_] = fails,
        ) -> tuple[Any, Any]:  # fmt: skip
            return absent[some], fails[some]

        seen = gather(index, asked[classes == k], judged)
        strata = strata_of(unlabelled[seen.rows], best_two(p[seen.rows]), k)
        found[k] = systematic_errors(index, seen, p[seen.rows, k], strata)
        logger.info("%s: %s: %d images fail, %d errors", name, OBJECTS[k], seen.failed.sum(),
                    len(found[k]))  # fmt: skip
    return found


def scored(
    found: Mapping[int, list[SystematicError]],
    pool: Drawings,
    prefix: str,
    for_context: ForContext,
) -> dict[str, Any]:
    """Systematic errors by class against the planted links, and `for_context` without one."""
    links = {OBJECTS.index(link.object): link for link in LINKS}
    rows, right, confusions = list[dict[str, Any]](), set[int](), 0
    for k, errors in found.items():
        confusions += sum(error.looks_like is not None for error in errors)
        for error in (one for one in errors if one.looks_like is None):
            link, of = links.get(k), pool.select(np.isin(np.arange(len(pool)), error.rows))
            came_with = shows_nothing(of) if link is None else shows(of, link)
            share = float((came_with & (of.objects != k)).mean())
            true = share >= SHOWS and (link is not None or for_context(k, error.rows.tolist()))
            if true and link is not None:
                right.add(k)
            rows.append(
                {
                    "class": OBJECTS[k],
                    "feature": "nothing planted" if link is None else link.feature,
                    "images": len(error.rows),
                    "feature_without_object": round(share, 4),
                    "rate": [round(one, 4) for one in (error.rate, error.low, error.high)],
                    "p": round(error.probability.mean, 4),
                    "true": true,
                }
            )
    proven = sum(row["true"] for row in rows)
    return {
        f"{prefix}clusters": len(rows),
        f"{prefix}confusions": confusions,
        f"{prefix}precision": round(proven / len(rows), 4) if rows else None,
        f"{prefix}recall": round(len(right) / len(links), 4),
        f"{prefix}by_cluster": rows,
    }


def features_of(name: str, pool: Drawings, work: Path) -> NDArray[np.float64]:
    """A planted classifier's features [N, D] of drawings, kept in the work folder."""
    path = work / f"features-{name}-{crc32(pool.images[:64].tobytes())}-{len(pool)}.npz"
    if not path.exists():
        classifier = load_classifier(f"planted:{name}")
        parts = [
            features(classifier, to_batch(pool.images, slice(start, start + BATCH))).numpy()
            for start in range(0, len(pool), BATCH)
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, features=np.concatenate(parts))
    with np.load(path) as kept:
        return np.asarray(kept["features"], np.float64)


def probabilities_of(name: str, pool: Drawings, work: Path) -> NDArray[np.float32]:
    """A planted classifier's probabilities [N, K] of drawings."""
    classifier = load_classifier(f"planted:{name}")
    return probabilities(classifier, features_of(name, pool, work)).astype(np.float32)


def probabilities(classifier: Classifier, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """A classifier's probabilities [N, K] by its features [N, D]."""
    weight, bias = classifier.head.arrays()
    p: NDArray[np.float64] = softmax(rows @ weight.T + bias, axis=1)
    return p


def index_of(classifier: Classifier, rows: NDArray[np.float64]) -> FeatureIndex:
    """An index of features [N, D], whose ids are their places."""
    ids = [str(place) for place in range(len(rows))]
    return FeatureIndex.build(rows, ids, fingerprint=classifier.fingerprint)
