"""The figure: which pairs it shows, what it says of them, and that they are on it."""

import io
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from whylens.errors import UsageError
from whylens.jobs.cli import main
from whylens.jobs.drawing import png
from whylens.jobs.report.data import load_run
from whylens.jobs.report.figure import FigureSpec, Row, draw, rows_of, run, spread
from whylens.jobs.report.part import Pair

build_run = runpy.run_path(str(Path(__file__).parents[1] / "synthetic_run.py"))["build_run"]


def flat_picture(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_row_shows_what_did_as_it_was_asked(tmp_path: Path) -> None:
    rows = {row.title: row for row in rows_of([load_run(str(build_run(tmp_path)))], 12)}
    assert list(rows) == ["Counterfactuals", "Components", "Disagreements"]
    # Of six, one did not flip and one failed.
    told = rows["Counterfactuals"].pairs
    assert len(told) == 4
    assert told[0].title == "fish → boat" or " → " in told[0].title
    assert {pair.change for pair in told} == {"p 2% → 95%"}
    assert {pair.change for pair in rows["Disagreements"].pairs} == {"p 96%, other 4%"}
    assert all(pair.before != pair.after for pair in rows["Components"].pairs)
    names = {pair.title.partition(":")[0] for pair in rows["Components"].pairs}
    assert names <= {"fish", "heart", "ring", "cross"}


def test_a_use_is_taken_from_the_first_run_that_has_it(tmp_path: Path) -> None:
    lacking = load_run(str(build_run(tmp_path / "a", without=("counterfactuals",))))
    other = load_run(str(build_run(tmp_path / "b", without=("disagreements",))))
    titles = [row.title for row in rows_of([lacking, other], 3)]
    assert titles == ["Counterfactuals", "Components", "Disagreements"]
    assert all(len(row.pairs) <= 3 for row in rows_of([lacking, other], 3))


def test_no_title_comes_twice_while_there_are_others() -> None:
    pairs = [Pair(title, b"", b"", str(place)) for place, title in enumerate("aabc")]
    assert [pair.change for pair in spread(pairs, 3)] == ["0", "2", "3"]
    assert [pair.change for pair in spread(pairs, 4)] == ["0", "2", "3", "1"]


def test_a_name_that_would_be_a_formula_is_drawn_as_it_is() -> None:
    grey = flat_picture((128, 128, 128))
    rows = [Row("$One$", "of", (Pair("$\\frac{1$", grey, grey, "$_$"),))]
    assert png(draw(rows, 6)).startswith(b"\x89PNG")


def test_images_are_drawn_before_left_of_after() -> None:
    colours = [(200, 0, 0), (0, 0, 200), (0, 160, 0), (160, 0, 160)]
    red, blue, green, violet = map(flat_picture, colours)
    rows = [Row("One", "of", (Pair("a", red, blue, "1"), Pair("b", green, violet, "2")))]
    image = np.asarray(Image.open(io.BytesIO(png(draw(rows, 6)))).convert("RGB")).astype(int)
    places = []
    for colour in colours:
        there = np.argwhere((np.abs(image - colour) < 3).all(2))
        # Nothing is drawn over them.
        height, width = np.ptp(there, axis=0) + 1
        assert len(there) == height * width > 1000
        assert height == pytest.approx(width, abs=2)
        places.append(there[:, 1].mean())
    assert places == sorted(places)


@pytest.mark.slow
def test_the_command_writes_a_picture_or_says_what_lacks(tmp_path: Path) -> None:
    folder = build_run(tmp_path / "run")
    out = tmp_path / "figures" / "rows.png"
    with pytest.raises(SystemExit) as stop:
        main(["figure", str(folder), "--out", str(out), "--columns", "2"])
    assert not stop.value.code
    assert Image.open(out).width > 500
    empty = build_run(tmp_path / "empty", without=("generated", "counterfactuals", "disagreements"))
    with pytest.raises(UsageError, match="no generated images in"):
        run(FigureSpec(runs=[str(empty)], out=str(tmp_path / "none.png")))
    assert not (tmp_path / "none.png").exists()
