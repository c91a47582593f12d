"""How verdicts hold in the photograph worlds where there is less to go by.

    python tests/photo_robustness.py --seeds 5 --out out/photo_world

The worlds and features of tests/photo_world.py, with fewer images to mine, without their labels,
without a second collection, with smaller classes. Rank: the share of followed links whose class's
most suspicious component shows the link, verdict or not. The last line is JSON.
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
from photo_features import Collections, Photographs, study
from photo_scenes import World, draw_world, missing
from photo_world import SHOWS, compare, follows, judged, train_head

logger = logging.getLogger(__name__)

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


def check_case(world: World, seen: Collections, less: Less) -> dict[str, int]:
    """One world's counts: verdicts, true ones, followed links, found and ranked first of them."""
    train, pool = less(seen)
    head = train_head(train)
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
    for name, less in CASES.items():
        rows = [check_case(world, seen, less) for world, seen in studied]
        total = {key: sum(row[key] for row in rows) for key in rows[0]}
        record[name] = {
            "precision": round(total["true_verdicts"] / max(total["verdicts"], 1), 3),
            "recall": round(total["found"] / max(total["followed"], 1), 3),
            "rank": round(total["first"] / max(total["followed"], 1), 3),
            **total,
            "images_a_class": total["images_a_class"] // len(rows),
        }
        logger.info("%s: %s", name, record[name])
    print(json.dumps(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
