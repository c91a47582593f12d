"""What the dashboard offers for choice: the runs in a folder, the findings that fit a filter."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import fsspec

from whylens.errors import WhylensError
from whylens.jobs.report.parts.finding import Finding, Verdict, verdict
from whylens.runs import Run
from whylens.runs.storage import Storage


def find_runs(where: str) -> dict[str, str]:
    """Name and folder of the run at `where`, or of the runs directly inside it, newest first."""
    base = where.rstrip("/")
    if Storage(base).exists("run.json"):
        return {base.rsplit("/", 1)[-1]: base}
    try:
        system, root = fsspec.core.url_to_fs(base)
        system.invalidate_cache()
        folders = [str(path).rstrip("/") for path in system.ls(root, detail=False)]
    except (OSError, ValueError):
        return {}
    names = [folder.rsplit("/", 1)[-1] for folder in folders]
    runs = {name: f"{base}/{name}" for name in names}
    runs = {name: folder for name, folder in runs.items() if Storage(folder).exists("run.json")}
    return dict(sorted(runs.items(), key=lambda item: _begun(item[1]), reverse=True))


def _begun(folder: str) -> str:
    try:
        return str(Run.open(folder).record().get("created", ""))
    except WhylensError:
        return ""


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
