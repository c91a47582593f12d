"""What is known of components: found by a run, or said by people, to be spurious."""

from __future__ import annotations

from whylens.jobs.findings.exemplars import FINDINGS
from whylens.jobs.findings.stored import COMPONENTS
from whylens.jobs.findings.verdicts import judged_rows
from whylens.jobs.labelled import SPURIOUS, UNSURE, label_rows, verdicts
from whylens.runs.lineage import Lineage

KEY = ("class_index", "component")


class Knowledge:
    """What a run and its people know of components: the tables components, findings, labels.

    What people say counts for more than what was found; "unsure" changes nothing.
    """

    def __init__(self, lineage: Lineage) -> None:
        known = lineage.has(COMPONENTS)
        components = judged_rows(lineage, ("words", "same_as")) if known else []
        findings, labels = lineage.rows(FINDINGS, (*KEY, "rank")), label_rows(lineage)
        self._rows = {(r["class_index"], r["component"]): r for r in components}
        self._ranks = {(r["class_index"], r["component"]): r["rank"] for r in findings}
        self._verdicts = {key: v for key, v in verdicts(labels).items() if v != UNSURE}
        self._judges = {(r["class_index"], r["component"], r["label"]): r["who"] for r in labels}
        self.classes = {k for k, _ in self._rows}
        self.spurious: dict[int, list[int]] = {}
        for k, component in sorted(self._rows):
            if self.of(k, component)[2]:
                self.spurious.setdefault(k, []).append(component)

    def of(self, k: int, component: int) -> tuple[tuple[str, ...], str, bool]:
        """Its words, its standing, and whether it counts as spurious."""
        row = self._rows[k, component]
        words = tuple(row["words"] or ())
        if (verdict := self._verdicts.get((k, component))) is not None:
            judge = self._judges[k, component, verdict]
            return words, f"labelled {verdict} by {judge}", verdict == SPURIOUS
        if not row["suspicious"]:
            return words, "", False
        rank = self._ranks.get((k, component))
        if rank is not None:
            return words, f"found spurious (finding {rank})", True
        leader = self._ranks.get((k, row["same_as"]))
        same = f" (as finding {leader})" if leader is not None else ""
        return words, f"found spurious{same}", True
