"""Which classes an image is changed to: the runner-up, the truth, near ones, named ones, any."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from whylens.errors import UsageError

if TYPE_CHECKING:
    from whylens.classifiers import Classes, Classifier

RUNNER_UP, TRUE, NEAR, CLUSTER = "runner-up", "true", "near", "cluster"
RANDOM, LISTED = "random", "listed"
RULES = (RUNNER_UP, TRUE, NEAR, CLUSTER, RANDOM, LISTED)


class Targets:
    """The rule that gives an image its target.

    runner-up: of a rightly classified image, the class that is second. true: of a misclassified
    one, its label. near: of a rightly classified one, the class nearest in a label tree; where
    no tree is given, the one whose row of the head is most alike (cosine, rows centred), which
    needs no list of words and exists for every classifier. cluster: of a rightly classified one,
    every other class of its branch of the tree, one after the other. random: of a rightly
    classified one, any other class, by the seed and the image's id. listed: of a rightly
    classified one, the class that `listed` gives for its id. Anything else names one class.
    """

    def __init__(
        self,
        target: str,
        tree: str | None,
        classifier: Classes,
        *,
        listed: Mapping[str, str] | None = None,
        seed: int = 0,
    ) -> None:
        """Raise UsageError for an unknown class, or a tree or list that can't be read or used.

        For near it has to be a classifier with its head, for others its classes will do.
        """
        self.rule, self.seed, self.count = target, seed, len(classifier.class_names)
        self.fixed = None if target in RULES else classifier.class_index(target)
        if tree is not None and target not in (NEAR, CLUSTER):
            raise UsageError(f"tree is for the target {NEAR!r}, or {CLUSTER!r}, not for {target!r}")
        if bool(listed) != (target == LISTED):
            raise UsageError(
                f"targets, a class by image id, go with the target {LISTED!r}, and it with them"
            )
        self.listed = {key: classifier.class_index(name) for key, name in (listed or {}).items()}
        self.near: Mapping[int, int] = {}
        self.branches: Mapping[int, tuple[str, ...]] = {}
        if target == NEAR:
            alike = likeness(cast("Classifier", classifier).head.arrays()[0])
            self.near = nearest(alike if tree is None else alike + depths(tree, classifier))
        if target == CLUSTER:
            if tree is None:
                raise UsageError(f"the target {CLUSTER!r} needs a tree of labels: name its file")
            self.branches = branches_of(tree, classifier)

    def of(self, image_id: str, label: int, top: Sequence[int]) -> list[tuple[int, int]]:
        """Each (class that the classifier says, target) of an image; none: not for this rule.

        `label` is the true class, `top` are the predicted classes, the first one first.
        """
        if self.rule not in (CLUSTER, RANDOM, LISTED):
            pair = self(label, top)
            return [] if pair is None else [pair]
        if label < 0 or not top or top[0] != label:
            return []
        if self.rule == LISTED:
            targets = [self.listed[image_id]] if image_id in self.listed else []
        elif self.rule == CLUSTER:
            own = self.branches.get(label)
            targets = [k for k, branch in self.branches.items() if branch == own]
        else:
            others = [k for k in range(self.count) if k != label]
            rng = np.random.default_rng([self.seed, zlib.crc32(image_id.encode())])
            targets = [int(rng.choice(others))] if others else []
        return [(label, target) for target in targets if target != label]

    def __call__(self, label: int, top: Sequence[int]) -> tuple[int, int] | None:
        """(class that the classifier says, target) of an image; None: it is not for this rule.

        `label` is the true class, `top` are the predicted classes, the first one first.
        """
        if label < 0 or not top or (top[0] == label) == (self.rule == TRUE):
            return None
        if self.rule == TRUE:
            return top[0], label
        if self.rule == RUNNER_UP:
            target = next((k for k in top if k != label), None)
        else:
            target = self.near.get(label) if self.rule == NEAR else self.fixed
        return None if target is None or target == label else (label, target)


def likeness(weight: np.ndarray) -> np.ndarray:
    """Cosines in [-1, 1] between the head's centred rows [K, D]: [K, K], -inf on the diagonal."""
    rows = weight - weight.mean(0)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    alike: np.ndarray = rows @ rows.T
    np.fill_diagonal(alike, -np.inf)
    return alike


def nearest(alike: np.ndarray) -> dict[int, int]:
    """The most alike other class of each; classes that a tree leaves out have none."""
    best = alike.argmax(1)
    return {k: int(j) for k, j in enumerate(best) if np.isfinite(alike[k, j])}


def branches_of(tree: str, classifier: Classes) -> dict[int, tuple[str, ...]]:
    """The branches that lead to each class in a tree.

    `tree` is a JSON file: objects and lists are branches, strings are classes, as in
    {"animals": ["cat", "dog"], "vehicles": {"on water": ["boat"]}}. It may leave classes out.

    Raises
    ------
    UsageError
        If the file can't be read, is no such tree, or names a class that the classifier lacks.
    """
    try:
        root = json.loads(Path(tree).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UsageError(f"the label tree {tree} can't be read as JSON: {error}") from None
    branches: dict[int, tuple[str, ...]] = {}
    _walk(root, (), branches, tree, classifier)
    return branches


def depths(tree: str, classifier: Classes) -> np.ndarray:
    """Three times the depth of two classes' last common branch: [K, K], so that it comes first.

    Classes that the tree leaves out are near to none. Raises as `branches_of`.
    """
    branches = branches_of(tree, classifier)
    count = len(classifier.class_names)
    found = np.full((count, count), -np.inf)
    for k, branch in branches.items():
        for j, other in branches.items():
            shared = next(
                (d for d, (a, b) in enumerate(zip(branch, other, strict=False)) if a != b),
                min(len(branch), len(other)),
            )
            found[k, j] = 3.0 * shared
    return found


def _walk(
    node: Any,
    branch: tuple[str, ...],
    branches: dict[int, tuple[str, ...]],
    tree: str,
    classifier: Classes,
) -> None:
    if isinstance(node, str):
        try:
            branches[classifier.class_index(node)] = branch
        except UsageError as error:
            raise UsageError(f"the label tree {tree}: {error}") from None
    elif isinstance(node, Mapping):
        for name, child in node.items():
            _walk(child, (*branch, name), branches, tree, classifier)
    elif isinstance(node, list):
        for child in node:
            _walk(child, branch, branches, tree, classifier)
    else:
        raise UsageError(
            f"the label tree {tree}: {node!r} is no branch and no class; branches are objects "
            "or lists, classes are strings"
        )
