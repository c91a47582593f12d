"""What the terminal says of findings."""

import io
from pathlib import Path

import pyarrow as pa
from rich.console import Console

from whylens.jobs.findings.exemplars import SCHEMA
from whylens.jobs.findings.terminal import show_findings
from whylens.runs import Run


def shown(folder: Path, **columns: object) -> str:
    spec = {"images": "photos", "classifier": "planted:biased"}
    run = Run.start(str(folder), "exemplars", {"source": None, **spec})
    row = {"rank": 1, "class_name": "fish", "guess": [], "suspicion": 0.5, "sufficiency_share": 0.2}
    part = pa.Table.from_pylist([{**row, **columns}], schema=SCHEMA)
    run.table("findings").write("all", part)
    console = Console(file=io.StringIO(), width=200)
    show_findings(run, console)
    return console.file.getvalue()


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    text = shown(tmp_path, class_name="a [/b] class", guess=["[bold]", "[/i]"])
    assert "a [/b] class" in text
    assert "[bold], [/i]" in text
    assert "20%" in text
