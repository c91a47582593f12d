"""The discovery check on shipped classifiers, and its comparison with the truth by hand."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from whylens.classifiers import load_classifier
from whylens.planted.checks.discovery import Collections, check_seed, compare, find, shows, study
from whylens.planted.checks.discovery_figure import draw_discovery
from whylens.planted.drawing.data import Drawings, draw_many
from whylens.planted.drawing.world import BACKGROUNDS, LINKS, OBJECTS


@pytest.fixture(scope="module")
def collections() -> Collections:
    mixed = draw_many("unlinked", 900, 41)
    neutral = mixed.select(~np.any([shows(mixed, link) for link in LINKS], axis=0))
    return Collections(
        draw_many("linked", 2000, 42),
        draw_many("unlinked", 3000, 43),
        draw_many("linked", 600, 44),
        draw_many("crossed", 600, 45),
        neutral,
    )


@pytest.mark.slow
def test_the_shipped_classifier_is_found_out_and_repaired(
    collections: Collections, tmp_path: Path
) -> None:
    seen = study(load_classifier("planted:biased"), collections)
    row, curve = check_seed(seen, seen, collections)
    assert row["found"] >= 7
    assert row["true_findings"] == row["findings"]
    assert row["spufix.recovered"] > 0.35
    assert row["spufix.linked_drop"] < 0.03
    assert row["spufix_transfer.recovered"] == row["spufix.recovered"]
    assert row["spufix_plain.recovered"] < 0.1
    assert curve[-1]["recovered"] > curve[0]["recovered"]
    draw_discovery({**row, "curve": curve, "seeds": [0]}, tmp_path / "figure.png")
    assert Image.open(tmp_path / "figure.png").size[0] > 1000


@pytest.mark.slow
def test_a_classifier_without_links_has_no_findings(collections: Collections) -> None:
    seen = study(load_classifier("planted:balanced"), collections)
    assert [judged.suspicious for judged in find(seen, collections)] == [[]] * len(OBJECTS)


def test_findings_are_counted_against_the_links_by_hand() -> None:
    link = next(link for link in LINKS if link.kind == "background")
    k, other = OBJECTS.index(link.object), 1 - min(OBJECTS.index(link.object), 1)
    background = BACKGROUNDS.index(link.feature)
    elsewhere = (background + 1) % len(BACKGROUNDS)
    pool = Drawings(
        np.zeros((4, 1, 1, 3), np.uint8),
        np.full(4, other),
        np.array([background, background, elsewhere, elsewhere]),
        np.full(4, -1),
    )
    shows_it, shows_not = [0, 1, 2], [2, 3, 1]

    def judged(index: int, rows: list[list[int]], suspicious: list[int], same: list[int]) -> object:
        return SimpleNamespace(
            components=SimpleNamespace(class_index=index),
            mined=SimpleNamespace(
                rows=np.array(rows), predicted=np.array([[True, True, False]] * len(rows))
            ),
            evidence=SimpleNamespace(same_as=np.array(same)),
            suspicious=suspicious,
        )

    # Two components of one feature count once; a third shows something else; the last is refused.
    of_link = judged(k, [shows_it, shows_it, shows_not, shows_not], [0, 1, 2], [0, 0, 2, 3])
    unlinked = next(
        i for i, name in enumerate(OBJECTS) if name not in {link.object for link in LINKS}
    )
    row = compare([of_link, judged(unlinked, [shows_it], [], [0])], pool)  # type: ignore[list-item]
    assert (row["findings"], row["true_findings"], row["found"]) == (2, 1, 1)
    assert row["planted"] == len(LINKS)
    # Of three components that show no planted feature two are refused.
    assert row["sufficiency.refused"] == pytest.approx(2 / 3)
