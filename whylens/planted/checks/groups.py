"""`whylens planted check --groups`: what repairs gain where a shortcut is absent or misleads.

The accuracy of the biased classifier by class and shown feature, before and after each repair:
SpuFix by formula and by refit, which know what was found and no image's feature, and deep feature
reweighting, which is told the class and the feature of every image.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whylens.classifiers import load_classifier
from whylens.neural_pca import (
    Refit,
    SpuFix,
    judge_classes,
    refit,
    spufix,
    with_own_images,
)
from whylens.neural_pca.dfr import Reweighted, reweighted
from whylens.planted.checks.confirm import features_of
from whylens.planted.checks.discovery import MINED, TOP, mined_for_repair, shows
from whylens.planted.drawing.data import Drawings, draw_many
from whylens.planted.drawing.world import LINKS, OBJECTS

logger = logging.getLogger(__name__)

EXPLAINED, TESTED = 3_000, 6_000
# Smaller groups are left out of the worst: one image would be more than five points.
LEAST = 20
# Accuracy on training images that a repair may cost, as `whylens spufix` has it.
BUDGET = 0.015
Fix = SpuFix | Refit | Reweighted


def check_groups(work: Path, name: str = "biased") -> dict[str, Any]:
    """One flat record.

    worst.*: the least accuracy of a group (class, shown feature) of unlinked drawings, before and
    after each repair, and which group that is (worst_group.*); mean.* over the groups; linked.* on
    drawings as in training; refit_below_dfr: worst.dfr minus worst.refit, in [-1, 1]. refit_as_dear
    may cost as much on drawings as in training as dfr does. One group is some sixty drawings.
    """
    main = draw_many("linked", EXPLAINED, 901, folder=work / "data")
    second = draw_many("unlinked", EXPLAINED, 902, folder=work / "data")
    tested = draw_many("unlinked", TESTED, 905, folder=work / "data")
    classifier = load_classifier(f"planted:{name}")
    head = classifier.head.arrays()
    explained, mined, seen = (features_of(name, one, work) for one in (main, second, tested))
    found = judge_classes(
        head, (explained, main.objects), (mined, second.objects), range(len(OBJECTS)),
        top=TOP, mined=MINED,
    )  # fmt: skip
    spurious = {j.components.class_index: j.suspicious for j in found if j.suspicious}
    rows, mined_for = with_own_images(*mined_for_repair(found), second.objects)

    def refitted(budget: float) -> Refit:
        return refit(
            *head, explained, main.objects, mined[rows], second.objects[rows], mined_for,
            budget=budget,
        )  # fmt: skip

    dfr = reweighted(mined, second.objects, group_of(second), len(OBJECTS))
    accuracy = {
        name: float((logits(head, fix, explained).argmax(1) == main.objects).mean())
        for name, fix in (("before", None), ("dfr", dfr))
    }
    dear = max(accuracy["before"] - accuracy["dfr"], 0.0)
    fixes: dict[str, Fix | None] = {
        "before": None,
        "formula": spufix([j.components for j in found], spurious),
        "refit": refitted(BUDGET),
        "refit_as_dear": refitted(dear),
        "dfr": dfr,
    }
    record: dict[str, Any] = {}
    for repair, fix in fixes.items():
        right = logits(head, fix, seen).argmax(1) == tested.objects
        cells = by_group(right, tested)
        worst = min(cells, key=lambda cell: cells[cell])
        record |= {
            f"worst.{repair}": round(cells[worst], 4),
            f"worst_group.{repair}": list(worst),
            f"mean.{repair}": round(float(np.mean(list(cells.values()))), 4),
            f"linked.{repair}": round(
                float((logits(head, fix, explained).argmax(1) == main.objects).mean()), 4
            ),
        }
        logger.info("%s: %s", repair, record)
    record["refit_below_dfr"] = round(record["worst.dfr"] - record["worst.refit"], 4)
    return record


def logits(
    head: tuple[NDArray[np.float64], NDArray[np.float64]],
    fix: Fix | None,
    features: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Logits [N, K] of a head's features [N, D], repaired or not."""
    if isinstance(fix, Refit | Reweighted):
        head = fix.weight, fix.bias
    plain: NDArray[np.float64] = features @ head[0].T + head[1]
    return fix.fix(features, plain) if isinstance(fix, SpuFix) else plain


def group_of(drawings: Drawings) -> NDArray[np.int64]:
    """The group of each drawing, [N]: its class, and the first link whose feature it shows."""
    shown = np.full(len(drawings), len(LINKS))
    for place in reversed(range(len(LINKS))):
        shown[shows(drawings, LINKS[place])] = place
    groups: NDArray[np.int64] = drawings.objects * (len(LINKS) + 1) + shown
    return groups


def by_group(right: NDArray[np.bool_], drawings: Drawings) -> dict[tuple[str, str], float]:
    """Accuracy by class and shown feature, "none" for no planted one; of LEAST images and more."""
    features = {link.feature: shows(drawings, link) for link in LINKS}
    features["none"] = ~np.any(list(features.values()), axis=0)
    return {
        (name, feature): float(right[rows].mean())
        for k, name in enumerate(OBJECTS)
        for feature, there in features.items()
        if (rows := (drawings.objects == k) & there).sum() >= LEAST
    }
