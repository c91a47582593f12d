"""The comparison of two runs passes for a run and its copy, and sees one value that changed."""

import io
import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

compare = runpy.run_path(str(Path(__file__).parent / "compare_runs.py"))
PICTURE = np.random.default_rng(0).integers(0, 250, (64, 64, 3), dtype=np.uint8)
HALF = np.array([0.5, 3.0], np.float16)


def png(array: np.ndarray, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format)
    return buffer.getvalue()


GENERATED = pa.schema(
    [
        ("class_index", pa.int32()),
        ("component", pa.int32()),
        ("kind", pa.string()),
        ("place", pa.int32()),
        ("image", pa.binary()),
        ("p_class", pa.float32()),
        ("norm", pa.float64()),
        ("losses", pa.list_(pa.float32())),
        ("failed", pa.string()),
        ("trajectory", pa.list_(pa.binary())),
        ("opinions", pa.list_(pa.struct([("classifier", pa.string()), ("p", pa.float32())]))),
        ("features", pa.list_(pa.float16(), 2)),
    ]
)


def row(place: int) -> dict:
    return {
        "class_index": 3,
        "component": 0,
        "kind": "component",
        "place": place,
        "image": png(PICTURE),
        "p_class": 0.5,
        "norm": 2000.0,
        "losses": [1.0, float("nan")],
        "failed": None,
        "trajectory": [png(PICTURE), png(PICTURE[..., 0], "WEBP")],
        "opinions": [{"classifier": "planted:biased", "p": 0.25}],
        "features": HALF,
    }


def write(run: Path, part: str, rows: list[dict]) -> None:
    folder = run / "tables" / "generated"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=GENERATED), folder / f"{part}.parquet")


@pytest.fixture
def runs(tmp_path):
    """A run of two tables and three parts, and its copy."""
    before, after = tmp_path / "before", tmp_path / "after"
    write(before, "5e1f-00000", [row(0), row(1)])
    write(before, "5e1f-00001", [row(2)])
    (before / "tables" / "census").mkdir()
    census = {"part": ["main-0"], "collection": ["main"], "class_index": [3], "images": [26]}
    pq.write_table(pa.table(census), before / "tables" / "census" / "0.parquet")
    (before / "run.json").write_text('{"state": "finished"}')
    shutil.copytree(before, after)
    return before, after


@pytest.fixture
def compared(runs, capsys):
    """The exit code, the lines printed and the JSON of comparing both."""

    def call(*options: str):
        code = compare["main"]([*map(str, runs), *options])
        *lines, last = capsys.readouterr().out.splitlines()
        return code, lines, json.loads(last)

    return call


def change(run: Path, **values) -> None:
    """Change the second of the three rows."""
    write(run, "5e1f-00000", [row(0), {**row(1), **values}])


def test_a_run_and_its_copy_are_equal(compared):
    code, lines, found = compared()
    assert code == 0
    assert found["equal"]
    assert lines[-1] == "0 differences"
    census, generated = found["tables"]
    assert (census["table"], census["rows"], census["columns"]) == ("census", 1, 4)
    assert (generated["table"], generated["rows"], generated["columns"]) == ("generated", 3, 12)
    # Of each of three rows: two numbers, two losses, an opinion and two features; three pictures.
    assert (generated["numbers"], generated["pictures"]) == (3 * 7, 3 * 3)


def test_parts_may_have_other_names_and_rows_another_order(runs, compared):
    shutil.rmtree(runs[1] / "tables" / "generated")
    write(runs[1], "ab03-00000", [row(2)])
    write(runs[1], "ab03-00001", [row(1), row(0)])
    assert compared()[0] == 0


def test_a_part_that_was_not_finished_is_none(runs, compared):
    (runs[1] / "tables" / "generated" / ".aside-1-0.parquet").write_bytes(b"PAR")
    assert compared()[0] == 0


def picture(pixels: int, levels: int) -> bytes:
    """The picture with so many pixels changed in one channel."""
    changed = PICTURE.copy()
    changed.reshape(-1, 3)[:pixels, 1] += levels
    return png(changed)


@pytest.mark.parametrize(
    "values",
    [
        {"p_class": 0.50009},
        {"norm": 2000.19},
        {"image": picture(1, 2)},
        {"image": picture(40, 1)},
        {"image": png(PICTURE, "BMP")},
        {"features": np.nextafter(HALF, np.float16(9))},
    ],
)
def test_small_differences_are_allowed(runs, compared, values):
    change(runs[1], **values)
    assert compared()[0] == 0


@pytest.mark.parametrize(
    ("values", "seen"),
    [
        ({"p_class": 0.5002}, " p_class: 0.5 before, 0.500199974 after"),
        ({"p_class": None}, " p_class: 0.5 before, None after"),
        ({"p_class": float("nan")}, " p_class: 0.5 before, nan after"),
        ({"norm": 2000.3}, " norm: 2000 before, 2000.3 after"),
        ({"losses": [1.0]}, " losses: 2 items before, 1 after"),
        ({"losses": [1.0, 2.0]}, " losses[1]: nan before, 2 after"),
        ({"failed": "not finite"}, " failed: None before, 'not finite' after"),
        ({"opinions": [{"classifier": "other", "p": 0.25}]}, " opinions[0].classifier: "),
        ({"opinions": [{"classifier": "planted:biased", "p": 0.2502}]}, " opinions[0].p: "),
        ({"features": HALF + np.float16(0.01)}, " features[0]: 0.5 before, "),
        ({"image": picture(1, 3)}, " image: 0.02% of pixels differ, by up to 3 levels"),
        ({"image": picture(42, 1)}, " image: 1.03% of pixels differ, by up to 1 levels"),
        ({"image": png(PICTURE[:32])}, " image: a picture of (64, 64, 3) before, (32, 64, 3) "),
        ({"image": b"text"}, " image: other bytes "),
        ({"trajectory": [png(PICTURE), png(PICTURE[..., 1], "WEBP")]}, " trajectory[1]: "),
    ],
)
def test_a_value_that_changed_is_seen(runs, compared, values, seen):
    change(runs[1], **values)
    code, lines, found = compared()
    assert code == 1
    assert not found["equal"]
    named = "generated: class_index=3 component=0 kind=component place=1"
    assert found["differences"][0].startswith(f"{named}{seen}")
    assert lines[-len(found["differences"]) :] == found["differences"]
    assert list(found["tables"][1]["by_column"]) == list(values)


def test_the_largest_difference_is_told_where_it_is(runs, compared):
    change(runs[1], p_class=0.50005, image=picture(2, 1))
    _, _, found = compared()
    generated = found["tables"][1]
    assert generated["number"] == pytest.approx(5e-5, rel=1e-3)
    assert generated["number_at"].endswith("place=1 p_class")
    assert (generated["levels"], generated["share"]) == (1, 2 / 64**2)
    assert generated["picture_at"].endswith("place=1 image")


def test_a_bound_can_be_set(runs, compared):
    change(runs[1], p_class=0.50009, image=picture(1, 2))
    assert compared("--tolerance", "1e-5")[2]["tables"][1]["differences"] == 1
    assert compared("--levels", "1")[2]["tables"][1]["differences"] == 1
    assert compared("--share", "0.0001")[2]["tables"][1]["differences"] == 1


def test_a_missing_row_is_seen(runs, compared):
    write(runs[1], "5e1f-00000", [row(1)])
    code, lines, _ = compared()
    assert code == 1
    named = "class_index=3 component=0 kind=component place=0"
    assert lines[-1] == f"generated: {named}: row missing after"


def test_a_row_that_is_there_twice_is_seen(runs, compared):
    write(runs[1], "5e1f-00000", [row(0), row(1), row(1)])
    code, lines, _ = compared()
    assert code == 1
    assert lines[-1].endswith("place=1 #2: row missing before")


@pytest.mark.parametrize(("side", "missing"), [(0, "after"), (1, "before")])
def test_another_table_is_seen(runs, compared, side, missing):
    shutil.copytree(runs[side] / "tables" / "census", runs[side] / "tables" / "more")
    code, lines, _ = compared()
    assert code == 1
    assert lines[-1] == f"more: table: missing {missing}"


@pytest.mark.parametrize(("side", "missing"), [(0, "after"), (1, "before")])
def test_another_column_is_seen(runs, compared, side, missing):
    path = runs[side] / "tables" / "census" / "0.parquet"
    pq.write_table(pq.read_table(path).append_column("more", pa.array([1])), path)
    code, lines, _ = compared()
    assert code == 1
    assert lines[-1] == f"census: column more: missing {missing}"


def test_another_type_is_seen(runs, compared):
    path = runs[1] / "tables" / "census" / "0.parquet"
    table = pq.read_table(path)
    images = table["images"].cast(pa.int32())
    pq.write_table(table.set_column(3, "images", images), path)
    code, lines, _ = compared()
    assert code == 1
    assert lines[-1] == "census: column images: int64 before, int32 after"


def test_columns_may_be_renamed_added_and_ignored_where_the_script_says_so(
    runs, compared, monkeypatch
):
    path = runs[1] / "tables" / "census" / "0.parquet"
    table = pq.read_table(path).rename_columns(["unit", "collection", "class_index", "images"])
    images = pa.array([27])
    pq.write_table(table.set_column(3, "images", images).append_column("more", images), path)
    assert compared()[0] == 1
    stated = compare["main"].__globals__
    monkeypatch.setitem(stated, "RENAMED", {"census": {"part": "unit"}})
    monkeypatch.setitem(stated, "ADDED", {"census": frozenset({"more"})})
    monkeypatch.setitem(stated, "IGNORED", {"census": frozenset({"images"})})
    code, _, found = compared()
    assert code == 0
    assert found["tables"][0]["columns"] == 3


def test_an_added_column_that_both_have_is_compared(runs, compared, monkeypatch):
    monkeypatch.setitem(
        compare["main"].__globals__, "ADDED", {"census": frozenset({"images", "more"})}
    )
    code, _, found = compared()
    assert code == 0
    assert found["tables"][0]["columns"] == 4


def test_a_run_that_is_not_finished_is_none(runs, capsys):
    (runs[1] / "run.json").write_text('{"state": "running"}')
    assert compare["main"]([str(runs[0]), str(runs[1])]) == 2
    assert "after holds no finished run" in capsys.readouterr().err
