"""People's labels: kept, in order, never replaced."""

import runpy
from datetime import UTC, datetime
from pathlib import Path

import pytest

from whylens.errors import UsageError
from whylens.jobs.people.labels import add_label
from whylens.jobs.report.data import load_run
from whylens.jobs.report.parts.finding import Label
from whylens.jobs.report.parts.findings import FINDINGS

synthetic = runpy.run_path(str(Path(__file__).parents[1] / "synthetic_run.py"))


def test_labels_add_up(tmp_path: Path) -> None:
    folder = str(synthetic["build_run"](tmp_path, findings=2))
    finding = load_run(folder)[FINDINGS][1]
    later, earlier = datetime(2026, 3, 2, tzinfo=UTC), datetime(2026, 3, 1, 9, tzinfo=UTC)
    add_label(folder, finding, "spurious", "Ada  L.", "all on bricks", now=later)
    add_label(folder, finding, "unsure", "../Ada L.", now=earlier)
    first, second = load_run(folder)[FINDINGS]
    assert first.labels == ()
    assert second.labels == (
        Label("unsure", "../Ada L.", "2026-03-01T09:00:00+00:00", ""),
        Label("spurious", "Ada L.", "2026-03-02T00:00:00+00:00", "all on bricks"),
    )
    names = sorted(path.name for path in (tmp_path / "tables" / "labels").iterdir())
    assert names == ["20260301T090000000000-ada-l.parquet", "20260302T000000000000-ada-l.parquet"]


def test_a_label_needs_a_name_and_a_known_word(tmp_path: Path) -> None:
    folder = str(synthetic["build_run"](tmp_path, findings=1))
    finding = load_run(folder)[FINDINGS][0]
    with pytest.raises(UsageError, match="who you are"):
        add_label(folder, finding, "spurious", "  ")
    with pytest.raises(UsageError, match="one of"):
        add_label(folder, finding, "maybe", "Ada")
