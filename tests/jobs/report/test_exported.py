"""What is saved of a run: tables that read back as they were, and a card with its images on it."""

import csv
import io
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from whylens.jobs.drawing import DPI, png
from whylens.jobs.report.card import (
    GAP,
    MARGIN,
    SIDE,
    TITLE,
    WORDS,
    counterfactual_card,
    drawn,
    finding_card,
)
from whylens.jobs.report.data import load_run
from whylens.jobs.report.exported import as_csv, finding_rows, plain_rows
from whylens.jobs.report.part import RunData
from whylens.jobs.report.parts.counterfactuals import COUNTERFACTUALS
from whylens.jobs.report.parts.findings import FINDINGS

synthetic = runpy.run_path(str(Path(__file__).parents[1] / "synthetic_run.py"))
RED, BLUE = (200, 0, 0), (0, 0, 200)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> RunData:
    return load_run(str(synthetic["build_run"](tmp_path_factory.mktemp("run"))))


def plain_picture(colour: tuple[int, int, int]) -> bytes:
    return bytes(synthetic["encoded"](np.full((8, 8, 3), colour, np.uint8)))


def test_findings_read_back_as_they_were(data: RunData) -> None:
    odd = replace(data[FINDINGS][0], class_name='a "b", c\nd', evidence={"lift": 2.5})
    rows = pd.read_csv(io.BytesIO(as_csv(finding_rows([odd, *data[FINDINGS][1:]]))))
    assert rows["class_name"].tolist() == ['a "b", c\nd', "heart", "ring", "cross"]
    assert rows["suspicion"].tolist() == [one.suspicion for one in data[FINDINGS]]
    assert rows["guess"][1] == "bricks, desert"
    assert rows["evidence_lift"][0] == 2.5
    assert rows["evidence_variance_share"].isna().tolist() == [True, False, False, False]
    assert "exemplars" not in rows


def test_rows_of_a_part_keep_numbers_and_leave_pictures_out(data: RunData) -> None:
    rows = list(csv.DictReader(as_csv(plain_rows(data[COUNTERFACTUALS])).decode().splitlines()))
    assert len(rows) == len(data[COUNTERFACTUALS])
    assert [row["flipped"] for row in rows].count("True") == 4
    assert float(rows[0]["against_target_after"]) == 0.88
    assert not {"before", "after", "losses", "optimisation"} & set(rows[0])
    assert as_csv([]) == b""


def middle(image: np.ndarray, column: int, row: int) -> list[int]:
    """The colour in the middle of an image of the first strip."""
    x = MARGIN + WORDS + column * (SIDE + GAP) + SIDE / 2
    y = MARGIN + TITLE + row * (SIDE + GAP) + SIDE / 2
    found: list[int] = image[round(y * DPI), round(x * DPI)].tolist()
    return found


def test_a_card_shows_images_above_their_heat_maps(data: RunData) -> None:
    one = data[FINDINGS][0]
    exemplars = (
        replace(one.exemplars[0], thumb=plain_picture(RED), heatmap=plain_picture(BLUE)),
        replace(one.exemplars[1], thumb=plain_picture(BLUE), heatmap=b"torn"),
    )
    hostile = replace(one, class_name="$\\frac{1}$ _x_", exemplars=exemplars)
    made = Image.open(io.BytesIO(png(drawn(finding_card(hostile)))))
    image = np.asarray(made.convert("RGB")).astype(int)
    assert np.abs(np.subtract(middle(image, 0, 0), RED)).max() < 8
    assert np.abs(np.subtract(middle(image, 0, 1), BLUE)).max() < 8
    assert np.abs(np.subtract(middle(image, 1, 0), BLUE)).max() < 8
    # Grey stands for what can't be read.
    assert middle(image, 1, 1) == [235, 235, 235]


def test_a_card_says_what_the_page_says(data: RunData) -> None:
    card = finding_card(data[FINDINGS][1], most=2)
    assert (card.title, card.mark) == ("heart: bricks, desert", "enough on its own")
    assert "61% are classified as heart" in card.sentences[0]
    assert [len(strip.columns) for strip in card.strips] == [2, 2, 2]
    failed = next(row for row in data[COUNTERFACTUALS] if not row.after)
    card = counterfactual_card(failed)
    assert card.mark == "failed"
    assert card.sentences[-1] == "the inversion did not converge"
    assert [caption for _, caption in card.strips[0].columns] == ["before"]
    nothing = counterfactual_card(replace(failed, before=None))
    assert nothing.strips == ()
    assert png(drawn(nothing)).startswith(b"\x89PNG")
