"""Which class an image is changed to: the runner-up, the truth, a near class, a named one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whylens.errors import UsageError

if TYPE_CHECKING:
    from whylens.classifiers import Classifier

RUNNER_UP, TRUE, NEAR = "runner-up", "true", "near"
RULES = (RUNNER_UP, TRUE, NEAR)


class Targets:
    """The rule that gives an image its target.

    runner-up: of a rightly classified image, the class that is second. true: of a misclassified
    one, its label. near: of a rightly classified one, the class nearest in a label tree; where
    no tree is given, the one whose row of the head is most alike (cosine, rows centred), which
    needs no list of words and exists for every classifier. Anything else names one class.
    """

    def __init__(self, target: str, tree: str | None, classifier: Classifier) -> None:
        """Raise UsageError for an unknown class, or a tree that can't be read or used."""
        self.rule = target
        self.fixed = None if target in RULES else classifier.class_index(target)
        if tree is not None and target != NEAR:
            raise UsageError(f"tree is for the target {NEAR!r}, not for {target!r}")
        self.near: Mapping[int, int] = {}
        if target == NEAR:
            alike = likeness(classifier.head.arrays()[0])
            self.near = nearest(alike if tree is None else alike + depths(tree, classifier))

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


def depths(tree: str, classifier: Classifier) -> np.ndarray:
    """Three times the depth of two classes' last common branch: [K, K], so that it comes first.

    `tree` is a JSON file: objects and lists are branches, strings are classes, as in
    {"animals": ["cat", "dog"], "vehicles": {"on water": ["boat"]}}. Classes that it leaves out
    are near to none.

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
    classifier: Classifier,
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
