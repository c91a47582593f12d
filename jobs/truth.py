"""What is true in the planted world, and how many of its links were found."""

from __future__ import annotations

from dataclasses import dataclass

from whylens.runs import Run
from whylens.runs.lineage import Lineage


def planted_truth(images: str, classifier: str) -> dict[str, str] | None:
    """The planted feature of each class; None outside the planted world."""
    if not images.startswith("planted:"):
        return None
    from whylens.planted.drawing.world import LINKS

    # Only the biased classifier learned from planted links; for the others no link is true.
    return {link.object: link.feature for link in LINKS} if "biased" in classifier else {}


@dataclass(frozen=True)
class Score:
    """Findings against the planted truth."""

    planted: int
    found: int
    false: int

    def __str__(self) -> str:
        return f"{self.found} of {self.planted} planted links found, {self.false} false"


def score(run: Run) -> Score | None:
    """The run's suspicious findings against the planted links; None outside the planted world."""
    lineage = Lineage(run)
    truth = planted_truth(str(lineage.setting("images")), str(lineage.setting("classifier")))
    if truth is None or not run.table("findings").units():
        return None
    rows = [row for row in run.table("findings").read().to_pylist() if row["suspicious"]]
    found = {(row["class_name"], row["truth"]) for row in rows if row["truth"]}
    return Score(len(truth), len(found), sum(1 for row in rows if not row["truth"]))
