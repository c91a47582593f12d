"""A run that was killed, whenever, is finished by the same command: nothing is done twice."""

import runpy
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

kills = runpy.run_path(str(Path(__file__).parent / "kill_twenty_times.py"))


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a minute and a half on two idle cores; three starts of Ray and torch
def test_a_run_killed_half_way_ends_with_the_same_tables(tmp_path):
    # By one worker, whose start costs most of the time; `kill_twenty_times.py` has two.
    result = kills["kill_again_and_again"](tmp_path, count=1, seed=1, workers=1)
    assert result.differences == []
    assert len(result.kills) == 1
    assert result.finished >= 1
    # A kill that met a run before its first part would show nothing.
    assert result.kills[0].done > 0


def test_kills_are_spread_over_the_run():
    moments = kills["moments"](20, 60.0, seed=0)
    assert len(moments) == 20
    assert sorted(int((moment - 1) / 59 * 20) for moment in moments) == list(range(20))
    assert moments != sorted(moments)


@pytest.fixture
def pair(tmp_path):
    """Two finished runs that are the same."""
    rows = {"id": ["a", "b"], "p": [0.25, 0.5], "losses": [[1.0], []], "alpha": [1.0, None]}
    for name in ("one", "other"):
        for table in kills["TABLES"]:
            folder = tmp_path / name / "tables" / table
            folder.mkdir(parents=True)
            pq.write_table(pa.table(rows), folder / "0.parquet")
        (tmp_path / name / "run.json").write_text('{"state": "finished", "warnings": []}')
        (tmp_path / name / "report.html").write_text("")
    return tmp_path / "one", tmp_path / "other", rows


def write(out: Path, **columns: list) -> None:
    pq.write_table(pa.table(columns), out / "tables" / "images" / "0.parquet")


def test_the_same_runs_are_the_same(pair):
    one, other, rows = pair
    write(other, **{**rows, "p": [0.25, 0.5 + 1e-7]})
    assert kills["differences"](one, other) == []


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ({"id": ["a", "c"]}, "[1].id: 'b' and 'c'"),
        ({"p": [0.25, 0.501]}, "[1].p: 0.5 and 0.501"),
        ({"losses": [[1.0, 2.0], []]}, "[0].losses: 1 and 2 items"),
        ({"alpha": [1.0, 2.0]}, "[1].alpha: None and 2.0"),
    ],
)
def test_a_different_row_would_be_seen(pair, change, seen):
    one, other, rows = pair
    write(other, **{**rows, **change})
    (found,) = kills["differences"](one, other)
    assert seen in found


def test_a_missing_part_an_aside_file_and_an_unfinished_run_would_be_seen(pair):
    one, other, _ = pair
    (other / "tables" / "mined" / "0.parquet").unlink()
    (other / "tables" / "mined" / ".aside-1-0.parquet").write_bytes(b"PAR")
    (other / "run.json").write_text('{"state": "failed", "warnings": []}')
    found = "\n".join(kills["differences"](one, other))
    assert "parts differ: ['tables/mined/0.parquet']" in found
    assert "left behind" in found
    assert "run.json says failed" in found


def test_a_part_that_is_written_again_would_be_seen(pair):
    one, _, rows = pair
    before = kills["parts"](one)
    assert kills["done_twice"](before, kills["parts"](one)) == []
    (one / "tables" / "images" / "0.parquet").unlink()
    write(one, **rows)
    assert kills["done_twice"](before, kills["parts"](one)) == [
        "tables/images/0.parquet was written again"
    ]
