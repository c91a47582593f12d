"""Reviewing components: which comes next for whom, and how far reviewers agree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import combinations
from typing import Any

from whylens.jobs.labelled import LABELS
from whylens.jobs.report.parts.finding import Finding, Key

# Of a component, by the person (names without regard to case): the label that stands.
Views = Mapping[Key, Mapping[str, str]]


class Order(Enum):
    """What a reviewer sees first of what that reviewer has not judged."""

    UNJUDGED = "judged by nobody first"
    SECOND = "judged by others first"
    SPLIT = "where reviewers differ"


def by_suspicion(one: Finding) -> tuple[bool, int, float, Key]:
    """Sorts findings first, by rank, then the most suspicious."""
    return one.rank == 0, one.rank, -(one.suspicion or 0.0), one.key


def views_of(said: Mapping[Key, Iterable[Mapping[str, Any]]]) -> dict[Key, dict[str, str]]:
    """Each person's standing view of each component, from its label rows by time."""
    return {
        key: {row["who"].casefold(): row["label"] for row in rows} for key, rows in said.items()
    }


def queue(
    components: Iterable[Finding], views: Views, who: str, order: Order = Order.UNJUDGED
) -> list[Finding]:
    """What `who` has still to judge, the next first: within an order by rank, then by suspicion."""
    me = who.casefold()
    left = [one for one in components if me not in views.get(one.key, {})]
    if order is Order.SPLIT:
        left = differing(left, views)
    last = order is Order.UNJUDGED
    return sorted(left, key=lambda one: ((one.key in views) is last, by_suspicion(one)))


@dataclass(frozen=True)
class Agreement:
    """Two reviewers: on how many components both gave a view, and on how many the same.

    kappa: Cohen's (1960), agreement beyond chance, at most 1; None where both always said one
    and the same thing, of which there is no beyond
    """

    first: str
    second: str
    both: int
    same: int
    kappa: float | None


def agreement(rows: Iterable[Mapping[str, Any]]) -> list[Agreement]:
    """Each pair of reviewers who judged a component both, from label rows by time."""
    names: dict[str, str] = {}
    views: dict[Key, dict[str, str]] = {}
    for row in rows:
        person = row["who"].casefold()
        names[person] = row["who"]
        views.setdefault((row["class_index"], row["component"]), {})[person] = row["label"]
    found = []
    for first, second in combinations(sorted(names), 2):
        pairs = [(v[first], v[second]) for v in views.values() if first in v and second in v]
        if pairs:
            same = sum(one == other for one, other in pairs)
            kappa = cohen_kappa(pairs)
            found.append(Agreement(names[first], names[second], len(pairs), same, kappa))
    return found


def cohen_kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """Cohen's kappa of pairs of labels; None where chance alone would make all of them agree."""
    from sklearn.metrics import cohen_kappa_score

    if len({label for pair in pairs for label in pair}) < 2:
        return None
    first, second = zip(*pairs, strict=True)
    return float(cohen_kappa_score(first, second, labels=list(LABELS)))


def mean_kappa(pairs: Sequence[Agreement]) -> float | None:
    """Light's kappa (1971) of several reviewers: the mean over pairs, None where none is known."""
    known = [one.kappa for one in pairs if one.kappa is not None]
    return sum(known) / len(known) if known else None


def differing(components: Iterable[Finding], views: Views) -> list[Finding]:
    """The components of which reviewers say different things, in their order."""
    return [one for one in components if len(set(views.get(one.key, {}).values())) > 1]
