"""What the dashboard offers for choice: the runs in a folder, the findings that fit a filter."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pyarrow import fs

from whylens.jobs.report_data import Finding
from whylens.jobs.report_words import Verdict, verdict


def find_runs(where: str) -> dict[str, str]:
    """Name and folder of the run at `where`, or of the runs directly inside it, newest first."""
    try:
        if "://" in where:
            filesystem, root = fs.FileSystem.from_uri(where)
        else:
            filesystem, root = fs.LocalFileSystem(), where
        root = root.rstrip("/")
        manifest = filesystem.get_file_info(f"{root}/run.json")
        if manifest.is_file:
            return {root.rsplit("/", 1)[-1]: where}
        folders = filesystem.get_file_info(fs.FileSelector(root, allow_not_found=True))
    except (OSError, ValueError):
        return {}
    names = [info.base_name for info in folders if info.type == fs.FileType.Directory]
    manifests = filesystem.get_file_info([f"{root}/{name}/run.json" for name in names])
    found = [(i.mtime_ns or 0, n) for n, i in zip(names, manifests, strict=True) if i.is_file]
    base = where.rstrip("/")
    return {
        name: f"{base}/{name}" for _, name in sorted(found, key=lambda pair: (-pair[0], pair[1]))
    }


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
