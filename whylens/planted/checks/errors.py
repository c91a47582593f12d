"""`whylens planted check --errors`: are slices of mistakes named by the planted features?"""

from pathlib import Path
from typing import Any

import numpy as np

from whylens.classifiers import load_classifier
from whylens.neural_pca import typical_words
from whylens.neural_pca.slices import slices
from whylens.planted.checks.confirm import features_of, index_of, probabilities
from whylens.planted.drawing.data import Drawings, draw_many
from whylens.planted.drawing.world import LINKS, OBJECTS

SEED, DRAWINGS = 905, 6_000


def check_errors(work: Path, drawings: int = DRAWINGS) -> dict[str, Any]:
    """Slice the mistakes on labelled drawings that no training saw; one flat record.

    named: links whose class's largest slice is named first by the planted feature; balanced_slices:
    slices of the balanced classifier, which follows no link.
    """
    pool = draw_many("unlinked", drawings, SEED, folder=work / "data")
    biased = slices_of("biased", pool, work)
    features = {link.object: link.feature for link in LINKS}
    largest = {row["class"]: row for row in reversed(biased)}
    right = [largest[k]["words"][:1] == [f] for k, f in features.items() if k in largest]
    return {
        "drawings": drawings,
        "named": sum(right),
        "links": len(LINKS),
        "slices": len(biased),
        "balanced_slices": len(slices_of("balanced", pool, work)),
        "by_slice": biased,
    }


def slices_of(name: str, pool: Drawings, work: Path) -> list[dict[str, Any]]:
    """The slices of a planted classifier's mistakes, class by class, the largest of each first."""
    classifier = load_classifier(f"planted:{name}")
    features = features_of(name, pool, work)
    p, index = probabilities(classifier, features), index_of(classifier, features)
    captions, found = pool.captions, []
    for k, called in enumerate(OBJECTS):
        for one in slices(index, pool.objects, p.argmax(1), p[:, k], k):
            inside = np.isin(np.arange(len(pool)), one.rows).astype(np.float64)
            found.append(
                {
                    "class": called,
                    "images": len(one.rows),
                    "rate": round(one.rate, 4),
                    "words": [word for word, _ in typical_words(captions, inside)],
                }
            )
    return found
