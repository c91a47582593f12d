"""How verdicts hold in the photograph worlds where there is less to go by.

    python tests/photo_robustness.py --seeds 5 --out out/photo_world

The worlds and features of tests/photo_world.py, with fewer images to mine, without their labels,
without a second collection, with smaller classes; with ImageNet's classes in the head beside the
world's own; and with two grounds for each of the three most strongly linked classes. Rank: the
share of followed links whose class's most suspicious component shows the link, verdict or not. The
last line is JSON.
"""

import argparse
import json
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from photo_features import Collections, Photographs, kept, photograph, plans, study
from photo_scenes import GROUNDS, World, draw_world, missing
from photo_world import SHOWS, Head, compare, follows, judged, train_head
from scipy.optimize import brentq
from scipy.special import softmax

from whylens.classifiers import load_classifier

logger = logging.getLogger(__name__)

# The salt of images of two grounds a class, which is none of `plans`.
TWO = 9
Less = Callable[[Collections], tuple[Photographs, Photographs]]


def part(seen: Photographs, share: float) -> Photographs:
    """A random part of the images of each class, the same each time."""
    rng = np.random.default_rng(1)
    rows = np.zeros(len(seen.labels), bool)
    for k in np.unique(seen.labels):
        inside = np.flatnonzero(seen.labels == k)
        rows[rng.permutation(inside)[: round(share * len(inside))]] = True
    return seen.select(rows)


def unlabelled(seen: Photographs) -> Photographs:
    """The same images, of no class that is known."""
    return replace(seen, labels=np.full_like(seen.labels, -1))


CASES: dict[str, Less] = {
    "936 images to mine, labelled": lambda seen: (seen.train, seen.second),
    "468": lambda seen: (seen.train, part(seen.second, 0.5)),
    "234": lambda seen: (seen.train, part(seen.second, 0.25)),
    "936, unlabelled": lambda seen: (seen.train, unlabelled(seen.second)),
    "468, unlabelled": lambda seen: (seen.train, unlabelled(part(seen.second, 0.5))),
    "no second collection": lambda seen: (seen.train, seen.train),
    "classes of half as many images": lambda seen: (part(seen.train, 0.5), seen.second),
    "of a quarter": lambda seen: (part(seen.train, 0.25), seen.second),
}


# How many of ImageNet's classes a head has beside the world's own 13, and what part of the mined
# collection's probability goes to them.
FURTHER = {"a head of 100 classes": 87, "of 1,013": 1000}
TAKEN = 0.25


def widened(head: Head, count: int, pool: Photographs) -> Head:
    """The head with so many of the network's ImageNet classes, evenly taken, behind its own.

    Their logits are raised or lowered together until they are given `TAKEN` of the images'
    probability: heads that were trained apart have no common level.
    """
    own = load_classifier("bundled:efficientnet_lite0").head.arrays()
    rows = np.linspace(0, len(own[0]) - 1, count).round().astype(int)
    weight, bias = (np.asarray(part[rows], np.float64) for part in own)
    first, further = pool.features @ head[0].T + head[1], pool.features @ weight.T + bias

    def excess(level: float) -> float:
        p = softmax(np.concatenate([first, further + level], 1), axis=1)
        return float(p[:, len(head[1]) :].sum(1).mean()) - TAKEN

    level = brentq(excess, -100, 100)
    return np.concatenate([head[0], weight]), np.concatenate([head[1], bias + level])


def check_case(
    world: World, seen: Collections, less: Less, further: int | None = None
) -> dict[str, int]:
    """One world's counts: verdicts, true ones, followed links, found and ranked first of them."""
    train, pool = less(seen)
    head = train_head(train)
    if further:
        head = widened(head, further, pool)
    found = judged(head, train, pool)
    shown = compare(world, found, pool)
    followed = follows(world, head, seen.even)
    first = 0
    for one in found:
        k = one.components.class_index
        if k in followed:
            rows = one.mined.rows[int(one.evidence.suspicion.argmax())].astype(int)
            first += bool((pool.grounds[rows] == world.links[k][0]).mean() >= SHOWS)
    return {
        "images_a_class": round(len(train.labels) / len(np.unique(train.labels))),
        "verdicts": sum(map(len, shown.values())),
        "true_verdicts": sum(sum(of_class) for of_class in shown.values()),
        "followed": len(followed),
        "found": sum(any(shown[k]) for k in followed),
        "first": first,
    }


def second_grounds(world: World) -> dict[int, int]:
    """Of the three most strongly linked classes, another ground that no class has."""
    taken = {ground for ground, _ in world.links.values()}
    unused = [ground for ground in range(len(GROUNDS)) if ground not in taken]
    return dict(zip(list(world.links)[:3], unused, strict=False))


def check_two_links(world: World, seen: Collections, folder: Path) -> dict[str, int]:
    """One world's counts, of classes with two grounds, each in half of the linked images."""
    added = second_grounds(world)
    plan = plans(world)["train"]
    grounds = plan.grounds.copy()
    for k, ground in added.items():
        linked = np.flatnonzero((plan.labels == k) & (grounds == world.links[k][0]))
        grounds[linked[::2]] = ground
    plan = replace(plan, grounds=grounds)
    train = photograph(world, 0, "two", plan, TWO, folder)
    owner = {ground: k for k, ground in added.items()}
    foreign = [owner.get(int(g), k) != k for g, k in zip(train.grounds, train.labels, strict=True)]
    train = train.select(~np.array(foreign) & kept(world, train))
    head = train_head(train)
    second = replace(world, links={k: (ground, 0.0) for k, ground in added.items()})
    links = {(k, world.links[k][0]) for k in follows(world, head, seen.even) & set(added)}
    links |= {(k, added[k]) for k in follows(second, head, seen.even)}
    verdicts, true, found = 0, 0, set()
    for one in judged(head, train, seen.second):
        k = one.components.class_index
        for component in one.suspicious if k in added else ():
            rows = one.mined.rows[component].astype(int)[one.mined.predicted[component]]
            shown = seen.second.grounds[rows]
            both = (world.links[k][0], added[k])
            verdicts += 1
            true += bool(np.isin(shown, both).mean() >= SHOWS)
            # What a third of them show is shown: one component may respond to both grounds.
            found |= {(k, ground) for ground in both if (shown == ground).mean() >= 1 / 3}
    return {
        "verdicts": verdicts,
        "true_verdicts": true,
        "followed": len(links),
        "found": len(found & links),
    }


def main() -> int:
    """Check every case in as many worlds as asked; prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="How many worlds.")
    parser.add_argument("--out", type=Path, default=Path("out/photo_world"))
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if why := missing():
        print(f"skipped: {why}")
        return 0
    worlds = [draw_world(seed) for seed in range(1, options.seeds + 1)]
    studied = [(world, study(world, 0, options.out)) for world in worlds]
    record: dict[str, Any] = {}
    cases: list[tuple[str, Less, int | None]] = [(*case, None) for case in CASES.items()]
    whole = next(iter(CASES.values()))
    cases += [(name, whole, count) for name, count in FURTHER.items()]
    for name, less, further in cases:
        rows = [check_case(world, seen, less, further) for world, seen in studied]
        total = {key: sum(row[key] for row in rows) for key in rows[0]}
        record[name] = {
            "precision": round(total["true_verdicts"] / max(total["verdicts"], 1), 3),
            "recall": round(total["found"] / max(total["followed"], 1), 3),
            "rank": round(total["first"] / max(total["followed"], 1), 3),
            **total,
            "images_a_class": total["images_a_class"] // len(rows),
        }
        logger.info("%s: %s", name, record[name])
    rows = [check_two_links(world, seen, options.out) for world, seen in studied]
    record["two links a class"] = {key: sum(row[key] for row in rows) for key in rows[0]}
    logger.info("two links a class: %s", record["two links a class"])
    print(json.dumps(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
