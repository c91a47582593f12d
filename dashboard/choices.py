"""The findings that fit a filter."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from whylens.jobs.report.parts.finding import Finding, Verdict, verdict


def matching(
    findings: Sequence[Finding],
    *,
    classes: Collection[str] = (),
    verdicts: Collection[Verdict] = (),
    least_suspicion: float = 0.0,
    words: str = "",
) -> list[Finding]:
    """The findings that pass every filter; an empty filter lets all pass."""
    wanted = words.casefold().split()
    return [
        finding
        for finding in findings
        if (not classes or finding.class_name in classes)
        and (not verdicts or verdict(finding) in verdicts)
        and (finding.suspicion is None or finding.suspicion >= least_suspicion)
        and all(any(word in g.casefold() for g in finding.guess) for word in wanted)
    ]
