"""`whylens planted check --discovery`: neural PCA and its repairs against the planted truth.

For each seed two biased classifiers of different architectures are trained. Components of the first
are found, mined and judged without any label of what is spurious; what is suspicious is compared
with the planted links. Then both are repaired: the first by its own findings, the second by what
was found on the first.

A finding is true where at least half of the mined images that are called its class show what came
with the class in training: its planted feature, or, of a class without a link, nothing that is
planted. (Other classes hardly come without their own feature: of linked drawings with nothing
planted, five in six are of the two classes without a link.) As nobody planted that, the calls have
to follow it, too, not the object: more of them stay where the object is taken away than where it is
kept and its context is drawn anew, by a sign test. So a look-alike is a false finding.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import bdtrc

from whylens.classifiers.classifier import Classifier
from whylens.classifiers.planted import load_folder, load_planted
from whylens.images.tensors import to_batch
from whylens.neural_pca import (
    Judged,
    Refit,
    SpuFix,
    judge_classes,
    refit,
    spufix,
    transfer,
    with_own_images,
)
from whylens.neural_pca.refit import STRENGTHS
from whylens.planted.drawing.data import Drawings, draw_many
from whylens.planted.drawing.world import (
    BACKGROUNDS,
    COMPANIONS,
    LINKS,
    OBJECTS,
    Link,
    Scene,
    Split,
    draw,
    draw_elsewhere,
    sample_scene,
)
from whylens.planted.training.classifiers import save_classifier, train_classifier
from whylens.planted.training.recipes import Recipe

logger = logging.getLogger(__name__)

SEEDS = (11, 12, 13, 14, 15)
TRAINED = 12_000
EXPLAINED = 3_000
TESTED = 4_000
TOP = 32
MINED = 120
# What came with the class is shown by this share of the mined images that are called so.
SHOWS = 0.5
# Of the sign test.
CHANCE = 0.05
TESTS = ("linked", "neutral", "crossed")
# Where mined drawings come from: a split and a seed.
SECOND: tuple[Split, int] = ("unlinked", 902)
# Whether drawings, by number, are called a class for their context.
ForContext = Callable[[int, Sequence[int]], bool]


@dataclass(frozen=True)
class Collections:
    """The drawings that a check looks at: to explain, to mine, and three to test on.

    `neutral` shows no planted feature, `crossed` another class's,
    `linked` the class's own.
    """

    main: Drawings
    second: Drawings
    linked: Drawings
    crossed: Drawings
    neutral: Drawings


@dataclass(frozen=True)
class Studied:
    """A classifier's head and its features of all collections."""

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    features: dict[str, NDArray[np.float64]]

    def logits(self, name: str) -> NDArray[np.float64]:
        """[N, K] of a collection."""
        logits: NDArray[np.float64] = self.features[name] @ self.weight.T + self.bias
        return logits


def check_discovery(work: Path, seeds: Sequence[int] = SEEDS) -> dict[str, Any]:
    """Train, find, repair; means over the seeds as one flat record.

    precision: of findings (suspicious components of a class that show the same feature count once),
    true ones; recall: of planted links, those with a true finding. sufficiency.accepted: the same,
    sufficiency.refused: components that aren't true and don't pass.
    spufix.recovered: the part of the accuracy that images lose where they show another class's
    planted feature (neutral minus crossed) that the repair wins back; spufix.linked_drop: accuracy
    lost on linked images. spufix_plain is the formula of the paper, spufix the refitted head;
    spufix_transfer the second classifier's, with nothing but the first one's mined images.
    false_without_links: suspicious components of the shipped classifier that saw no links.
    """
    collections = draw_collections(work)
    rows, curves = [], []
    for seed in seeds:
        classifier = trained(work, "plain", seed)
        first = study(classifier, collections)
        second = study(trained(work, "residual", seed), collections)
        for_context = partial(follows_context, classifier, SECOND)
        row, curve = check_seed(first, second, collections, for_context)
        logger.info("seed %d: %s", seed, row)
        rows.append(row)
        curves.append(curve)
    record: dict[str, Any] = {
        name: round(float(np.mean([row[name] for row in rows])), 4) for name in rows[0]
    }
    record["precision"] = _ratio(rows, "true_findings", "findings")
    record["recall"] = _ratio(rows, "found", "planted")
    free = study(load_planted("planted:balanced", "balanced"), collections)
    record["false_without_links"] = sum(len(j.suspicious) for j in find(free, collections))
    record["seeds"] = list(seeds)
    record["by_seed"] = rows
    record["curve"] = [
        {
            name: round(float(np.mean([points[place][name] for points in curves])), 4)
            for name in curves[0][0]
        }
        for place in range(len(STRENGTHS))
    ]
    return record


def draw_collections(work: Path) -> Collections:
    """The drawings, kept in the work folder."""
    folder = work / "data"
    mixed = draw_many("unlinked", 3 * TESTED, 904, folder=folder)
    return Collections(
        draw_many("linked", EXPLAINED, 901, folder=folder),
        draw_many(SECOND[0], EXPLAINED, SECOND[1], folder=folder),
        draw_many("linked", TESTED, 900, folder=folder),
        draw_many("crossed", TESTED, 900, folder=folder),
        mixed.select(shows_nothing(mixed)),
    )


def trained(work: Path, architecture: str, seed: int) -> Classifier:
    """A small biased classifier; trained where it isn't in the work folder yet."""
    name = f"{architecture}-{seed}"
    if not (work / name / "config.json").exists():
        widths = {"plain": (16, 32, 64, 96), "residual": (12, 24, 48, 64)}[architecture]
        recipe = Recipe("linked", architecture, widths, steps=1500, seed=seed)
        drawings = draw_many("linked", TRAINED, 500 + seed, folder=work / "data")
        network = train_classifier(name, recipe, drawings, work)
        save_classifier(network, recipe, work / name)
    return load_folder(f"planted:{name}", work / name)


@torch.inference_mode()
def study(classifier: Classifier, collections: Collections) -> Studied:
    """The classifier's features of every collection."""
    features = {}
    for name, drawings in vars(collections).items():
        parts = [
            classifier.features(to_batch(drawings.images, slice(start, start + 250)))
            for start in range(0, len(drawings), 250)
        ]
        features[name] = torch.cat(parts).double().numpy()
    return Studied(*classifier.head.arrays(), features)


def shows(drawings: Drawings, link: Link) -> NDArray[np.bool_]:
    """Which drawings show a link's feature, [N]."""
    if link.kind == "background":
        there: NDArray[np.bool_] = drawings.backgrounds == BACKGROUNDS.index(link.feature)
    else:
        there = drawings.companions == COMPANIONS.index(link.feature)
    return there


def shows_nothing(drawings: Drawings) -> NDArray[np.bool_]:
    """Which drawings show no link's feature, [N]."""
    nothing: NDArray[np.bool_] = ~np.any([shows(drawings, link) for link in LINKS], axis=0)
    return nothing


def find(seen: Studied, collections: Collections) -> list[Judged]:
    """Components of every class, mined and judged as the components job does."""
    return judge_classes(
        (seen.weight, seen.bias),
        (seen.features["main"], collections.main.objects),
        (seen.features["second"], collections.second.objects),
        range(len(OBJECTS)),
        top=TOP,
        mined=MINED,
    )


def check_seed(
    first: Studied, second: Studied, collections: Collections, for_context: ForContext
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """One seed's figures, counts of findings and links among them; and the refit by strength."""
    found = find(first, collections)
    row = compare(found, collections.second, for_context)
    spurious = {j.components.class_index: j.suspicious for j in found if j.suspicious}
    rows, mined_for = mined_for_repair(found)
    plain = spufix([j.components for j in found], spurious)
    carried = transfer(
        plain,
        first.features["main"],
        second.features["main"],
        collections.main.objects,
        second.weight,
    )
    fixes: dict[str, tuple[Studied, SpuFix | Refit]] = {
        "spufix": (first, _refitted(first, collections, rows, mined_for)),
        "spufix_plain": (first, plain),
        "spufix_transfer": (second, _refitted(second, collections, rows, mined_for)),
        "spufix_transfer_plain": (second, carried),
    }
    for name, (seen, fix) in fixes.items():
        before, after = accuracies(seen, collections), accuracies(seen, collections, fix)
        row |= {f"{name}.{what}": value for what, value in _gains(before, after).items()}
        if not name.endswith("plain"):
            row |= {f"{name}.{split}_before": value for split, value in before.items()}
        row |= {f"{name}.{split}_after": value for split, value in after.items()}
    before, curve = accuracies(first, collections), []
    for strength in STRENGTHS:
        fixed = _refitted(first, collections, rows, mined_for, strength)
        gains = _gains(before, accuracies(first, collections, fixed))
        curve.append({"strength": strength} | gains)
    return {name: round(float(value), 4) for name, value in row.items()}, curve


def mined_for_repair(found: Sequence[Judged]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows [M] of what was mined for suspicious components, and the class [M] of each."""
    keys = {
        (int(image), j.components.class_index)
        for j in found
        for component in j.suspicious
        for image in j.mined.rows[component]
    }
    rows, mined_for = np.array(sorted(keys)).T
    return rows, mined_for


def compare(found: Sequence[Judged], pool: Drawings, for_context: ForContext) -> dict[str, float]:
    """What was found against what is true of the drawings, as the module says.

    for_context: whether drawings of the pool are called a class that has no link for their context.
    """
    links = {OBJECTS.index(link.object): shows(pool, link) for link in LINKS}
    nothing = shows_nothing(pool)
    findings = true = 0
    accepted, refused = set(), []
    for judged in found:
        k = judged.components.class_index
        came_with = links.get(k, nothing)
        truth = []
        for rows, called in zip(judged.mined.rows, judged.mined.predicted, strict=True):
            shown = rows[called].astype(int)
            shows_it = len(shown) > 0 and bool(came_with[shown].mean() >= SHOWS)
            truth.append(shows_it and (k in links or for_context(k, shown.tolist())))
        suspicious = judged.suspicious
        same = judged.evidence.same_as
        findings += len({int(same[c]) for c in suspicious})
        true += len({int(same[c]) for c in suspicious if truth[int(same[c])]})
        if k in links and any(truth[c] for c in suspicious):
            accepted.add(k)
        refused += [c not in suspicious for c, right in enumerate(truth) if not right]
    return {
        "findings": findings,
        "true_findings": true,
        "planted": len(links),
        "found": len(accepted),
        "sufficiency.accepted": len(accepted) / len(links),
        "sufficiency.refused": float(np.mean(refused)),
    }


@torch.inference_mode()
def follows_context(
    classifier: Classifier, drawn: tuple[Split, int], k: int, numbers: Sequence[int]
) -> bool:
    """Whether some drawings of (split, seed), by number, are called k for their context.

    Without their objects they are called so more often than the objects before another context.
    """
    emptied, elsewhere = (
        classifier.logits(to_batch(images, slice(None))).argmax(1).numpy() == k
        for images in changed([sample_scene(*drawn, number) for number in numbers])
    )
    return more_often(emptied, elsewhere)


def changed(scenes: Sequence[Scene]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images [N, H, W, 3] of scenes without their objects, and of their objects elsewhere."""
    emptied = [draw(replace(scene, object=None)).image for scene in scenes]
    return np.stack(emptied), np.stack([draw_elsewhere(scene) for scene in scenes])


def more_often(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> bool:
    """Whether the first holds more often than the second, by an exact one-sided sign test."""
    only, other = int((first & ~second).sum()), int((second & ~first).sum())
    return only > other and float(bdtrc(only - 1, only + other, 0.5)) <= CHANCE


def accuracies(
    seen: Studied, collections: Collections, fix: SpuFix | Refit | None = None
) -> dict[str, float]:
    """Accuracy on each collection of TESTS, repaired or not."""
    found = {}
    for name in TESTS:
        features, logits = seen.features[name], seen.logits(name)
        if isinstance(fix, SpuFix):
            logits = fix.fix(features, logits)
        elif fix is not None:
            logits = features @ fix.weight.T + fix.bias
        drawings: Drawings = getattr(collections, name)
        found[name] = float((logits.argmax(1) == drawings.objects).mean())
    return found


def _gains(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    lost = before["neutral"] - before["crossed"]
    return {
        "recovered": (after["crossed"] - before["crossed"]) / lost,
        "linked_drop": before["linked"] - after["linked"],
    }


def _refitted(
    seen: Studied,
    collections: Collections,
    rows: NDArray[np.int64],
    mined_for: NDArray[np.int64],
    strength: float | None = None,
) -> Refit:
    """Within the usual budget, or of one strength at any cost."""
    rows, mined_for = with_own_images(rows, mined_for, collections.second.objects)
    options: dict[str, Any] = {} if strength is None else {"budget": 1.0, "strengths": (strength,)}
    return refit(
        seen.weight,
        seen.bias,
        seen.features["main"],
        collections.main.objects,
        seen.features["second"][rows],
        collections.second.objects[rows],
        mined_for,
        **options,
    )


def _ratio(rows: Sequence[dict[str, float]], part: str, whole: str) -> float:
    return round(sum(row[part] for row in rows) / max(sum(row[whole] for row in rows), 1), 4)
