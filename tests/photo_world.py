"""Verdicts and repairs in a world of photographs whose spurious links are known.

    python tests/photo_world.py --seeds 5 --out out/photo_world

A linear head is trained on an EfficientNet-Lite0's features of cut-outs on photographed grounds
(tests/photo_scenes.py), with links and without. How far it relies on a link is measured without
whylens: how often test images without the object are called its class on the link's ground, against
all other grounds. whylens then finds, mines and judges; a verdict is true where the mined images
that are called the class show the link's ground. Then the head is repaired, and one on Lite2 by the
same mined images; beside it stands what a head that saw no links loses on linked images. The last
line is JSON. Features are kept in the folder, so that a run goes on where it was stopped.

Says why, and does nothing, where the photographs are missing.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from photo_features import Collections, Photographs, plans, study
from photo_scenes import CLASSES, GROUNDS, World, draw_world, missing, pictures
from PIL import Image
from torch.nn import functional as F

from whylens.neural_pca import Judged, Refit, judge_classes, refit, spufix, with_own_images
from whylens.neural_pca.dfr import reweighted
from whylens.neural_pca.refit import STRENGTHS

logger = logging.getLogger(__name__)

Head = tuple[NDArray[np.float64], NDArray[np.float64]]
TOP, MINED, MINED_OF_POOL = 32, 120, 20
# A head follows a link from this many times the rate on other grounds on.
FOLLOWS = 3
SHOWS = 0.5
DECAY = 0.3
# Parts of the way to the fitted head at which the trade is looked at.
PARTS = (0.05, 0.1, 0.15, 0.2, 0.35, 0.5, 0.7, 1.0)


def train_head(seen: Photographs) -> Head:
    """Multinomial logistic regression on standardised features, with an L2 penalty."""
    centre, spread = seen.features.mean(0), seen.features.std(0) + 1e-6
    rows, labels = (
        torch.from_numpy((seen.features - centre) / spread),
        torch.from_numpy(seen.labels),
    )
    weight = torch.zeros(len(CLASSES), rows.shape[1], dtype=torch.double, requires_grad=True)
    bias = torch.zeros(len(CLASSES), dtype=torch.double, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> float:
        optimiser.zero_grad()
        value = F.cross_entropy(rows @ weight.T + bias, labels) + DECAY * weight.square().sum()
        value.backward()
        return float(value.detach())

    optimiser.step(loss)
    found = weight.detach().numpy() / spread
    return found, bias.detach().numpy() - found @ centre


def called(head: Head, seen: Photographs) -> NDArray[np.int64]:
    """The class of each image, [N]."""
    return (seen.features @ head[0].T + head[1]).argmax(1)


def reliance(world: World, head: Head, even: Photographs) -> dict[int, tuple[float, float]]:
    """For each linked class, how often other classes' images are called it: on the link's ground,
    and on the others."""
    classes, found = called(head, even), {}
    for k, (ground, _) in world.links.items():
        without, there = even.labels != k, even.grounds == ground
        found[k] = (
            float((classes[without & there] == k).mean()),
            float((classes[without & ~there] == k).mean()),
        )
    return found


def follows(world: World, head: Head, even: Photographs) -> set[int]:
    """The linked classes whose links the head follows."""
    return {
        k
        for k, (there, elsewhere) in reliance(world, head, even).items()
        if there >= FOLLOWS * elsewhere and there > 0
    }


def judged(head: Head, main: Photographs, second: Photographs) -> list[Judged]:
    """Every class, as the components job does it."""
    return judge_classes(
        head,
        (main.features, main.labels),
        (second.features, second.labels),
        range(len(CLASSES)),
        top=TOP,
        mined=min(MINED, len(second.labels) // MINED_OF_POOL),
    )


def compare(world: World, found: Sequence[Judged], second: Photographs) -> dict[int, list[bool]]:
    """For each class, of each suspicious component whether it shows the class's link."""
    shown = {}
    for one in found:
        k = one.components.class_index
        ground = world.links.get(k, (-1, 0.0))[0]
        shown[k] = []
        for component in one.suspicious:
            rows = one.mined.rows[component].astype(int)[one.mined.predicted[component]]
            shown[k].append(bool((second.grounds[rows] == ground).mean() >= SHOWS))
    return shown


def accuracies(world: World, head: Head, seen: Collections) -> dict[str, float]:
    """On linked test images; on grounds of no link; on other classes' grounds."""
    grounds = [ground for ground, _ in world.links.values()]
    own = np.array([world.links.get(k, (-1, 0.0))[0] for k in range(len(CLASSES))])
    right = called(head, seen.even) == seen.even.labels
    plain = ~np.isin(seen.even.grounds, grounds)
    crossed = ~plain & (own[seen.even.labels] != seen.even.grounds)
    linked = called(head, seen.linked) == seen.linked.labels
    return {
        "linked": float(linked.mean()),
        "neutral": float(right[plain].mean()),
        "crossed": float(right[crossed].mean()),
    }


def repaired(
    head: Head, found: Sequence[Judged], seen: Collections, **options: Any
) -> Refit | None:
    """The head fitted again to what was mined for suspicious components; None where none is."""
    keys = {
        (int(row), one.components.class_index)
        for one in found
        for component in one.suspicious
        for row in one.mined.rows[component]
    }
    if not keys:
        return None
    rows, mined_for = with_own_images(*np.array(sorted(keys)).T, seen.second.labels)
    return refit(
        *head,
        seen.train.features,
        seen.train.labels,
        seen.second.features[rows],
        seen.second.labels[rows],
        mined_for,
        **options,
    )


def repair_gains(
    world: World, head: Head, fixed: Refit | None, seen: Collections, name: str
) -> dict[str, float]:
    """What the usual repair does: within its budget, measured on the training images alone."""
    before = accuracies(world, head, seen)
    if fixed is None:
        return gains(before, before, name)
    after = accuracies(world, (fixed.weight, fixed.bias), seen)
    return gains(before, after, name) | {f"{name}.share": fixed.share, f"{name}.cost": fixed.cost}


def by_group(
    world: World, head: Head, found: Sequence[Judged], fixed: Refit | None, seen: Collections
) -> dict[str, float]:
    """The worst group's accuracy, and the mean of all, before and after repairs: SpuFix by formula
    and by refit, and DFR, which is told the ground of every image that was mined.

    A group is a class on other classes' grounds, or on grounds of no link: a class on one ground
    has four test images, and the worst of those would be mostly chance.
    """
    second, even = seen.second, seen.even
    told = reweighted(
        second.features, second.labels, second.labels * len(GROUNDS) + second.grounds, len(CLASSES)
    )
    heads: dict[str, Head] = {"before": head, "dfr": (told.weight, told.bias)}
    if fixed is not None:
        heads["refit"] = fixed.weight, fixed.bias
    logits = {name: even.features @ w.T + b for name, (w, b) in heads.items()}
    if spurious := {one.components.class_index: one.suspicious for one in found if one.suspicious}:
        formula = spufix([one.components for one in found], spurious)
        logits["formula"] = formula.fix(even.features, logits["before"])
    own = np.array([world.links.get(k, (-1, 0.0))[0] for k in range(len(CLASSES))])[even.labels]
    crossed = np.isin(even.grounds, [ground for ground, _ in world.links.values()])
    groups = np.where(own == even.grounds, -1, 2 * even.labels + crossed)
    figures = {}
    for name, said in logits.items():
        right = said.argmax(1) == even.labels
        cells = [right[groups == group].mean() for group in np.unique(groups[groups >= 0])]
        figures |= {
            f"worst_group.{name}": float(min(cells)),
            f"groups.{name}": float(np.mean(cells)),
        }
    linked = seen.linked
    for name, (w, b) in heads.items():
        right = (linked.features @ w.T + b).argmax(1) == linked.labels
        figures[f"groups_linked.{name}"] = float(right.mean())
    return figures


def trade(
    world: World, head: Head, found: Sequence[Judged], seen: Collections
) -> list[dict[str, float]]:
    """What is won back and lost by the part of the way that the repair goes, whatever it costs."""
    before = accuracies(world, head, seen)
    whole = repaired(head, found, seen, budget=1.0, strengths=STRENGTHS[:1])
    points = []
    for share in PARTS if whole else ():
        part = [a + share * (b - a) for a, b in zip(head, (whole.weight, whole.bias), strict=True)]
        won = gains(before, accuracies(world, (part[0], part[1]), seen), "")
        points.append(
            {"share": share, "recovered": won[".recovered"], "linked_drop": won[".linked_drop"]}
        )
    return points


def gains(before: dict[str, float], after: dict[str, float], name: str) -> dict[str, float]:
    """What a repair wins back of the accuracy that conflicting grounds cost, and loses on linked
    images."""
    lost = before["neutral"] - before["crossed"]
    return {
        f"{name}.recovered": (after["crossed"] - before["crossed"]) / max(lost, 1e-9),
        f"{name}.linked_drop": before["linked"] - after["linked"],
        **{f"{name}.{split}_before": value for split, value in before.items()},
        **{f"{name}.{split}_after": value for split, value in after.items()},
    }


def check_seed(seed: int, folder: Path, transfer: bool) -> dict[str, Any]:
    """One world's figures."""
    world = draw_world(seed)
    seen = study(world, 0, folder)
    head = train_head(seen.train)
    found = judged(head, seen.train, seen.second)
    shown = compare(world, found, seen.second)
    followed = follows(world, head, seen.even)
    unlinked = train_head(seen.free)
    free = judged(unlinked, seen.free, seen.second)
    row: dict[str, Any] = {
        "verdicts": sum(map(len, shown.values())),
        "true_verdicts": sum(sum(of_class) for of_class in shown.values()),
        "followed": len(followed),
        "found": sum(any(shown[k]) for k in followed),
        "false_without_links": sum(len(one.suspicious) for one in free),
        "links": {
            f"{list(CLASSES)[k]}: {GROUNDS[ground]}": {
                "strength": strength,
                "called_on_it": round(reliance(world, head, seen.even)[k][0], 3),
                "called_elsewhere": round(reliance(world, head, seen.even)[k][1], 3),
                "verdicts": sum(shown[k]),
            }
            for k, (ground, strength) in world.links.items()
        },
    }
    fixed = repaired(head, found, seen)
    row |= repair_gains(world, head, fixed, seen, "spufix")
    row["trade"] = trade(world, head, found, seen)
    row |= by_group(world, head, found, fixed, seen)
    before = accuracies(world, head, seen)
    row |= gains(before, accuracies(world, unlinked, seen), "without_links")
    if transfer:
        other = study(world, 2, folder, free=False)
        others = train_head(other.train)
        row |= repair_gains(world, others, repaired(others, found, other), other, "transfer")
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}


def check(seeds: int, folder: Path, transfer: bool) -> dict[str, Any]:
    """All worlds' figures: precision and recall over all verdicts and links, means of repairs."""
    rows = []
    for seed in range(1, seeds + 1):
        rows.append(check_seed(seed, folder, transfer))
        logger.info("seed %d: %s", seed, rows[-1])

    def total(name: str) -> int:
        return sum(row[name] for row in rows)

    means = [name for name in rows[0] if "." in name and all(name in row for row in rows)]
    curve = [
        {name: round(float(np.mean([point[name] for point in points])), 4) for name in points[0]}
        for points in zip(*(row["trade"] for row in rows if row["trade"]), strict=True)
    ]
    return {
        "precision": round(total("true_verdicts") / max(total("verdicts"), 1), 4),
        "recall": round(total("found") / max(total("followed"), 1), 4),
        "false_without_links": total("false_without_links"),
        **{name: round(float(np.mean([row[name] for row in rows])), 4) for name in means},
        "trade": curve,
        "seeds": seeds,
        "by_seed": rows,
    }


def draw(folder: Path) -> Path:
    """A sheet of the first world's training images, a row a class."""
    world = draw_world(1)
    images = np.stack(list(pictures(world, plans(world)["train"], 0)))
    each = len(images) // len(CLASSES)
    rows = [np.concatenate(list(images[k * each : k * each + 8]), 1) for k in range(len(CLASSES))]
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(folder / "world.png")
    return folder / "world.png"


def main() -> int:
    """Check as many worlds as asked; prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="How many worlds.")
    parser.add_argument("--out", type=Path, default=Path("out/photo_world"))
    parser.add_argument(
        "--transfer",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="Whether a head on Lite2 is repaired, too: two thirds of the time.",
    )
    parser.add_argument("--pictures", action="store_true", help="Draw training images only.")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if why := missing():
        print(f"skipped: {why}")
        return 0
    if options.pictures:
        print(draw(options.out))
        return 0
    print(json.dumps(check(options.seeds, options.out, options.transfer)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
