"""The discovery check on shipped classifiers, and its comparison with the truth by hand."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from whylens.classifiers import load_classifier
from whylens.planted.checks.discovery import (
    Collections,
    changed,
    check_seed,
    compare,
    find,
    follows_context,
    more_often,
    shows_nothing,
    study,
)
from whylens.planted.checks.discovery_figure import draw_discovery
from whylens.planted.drawing.data import Drawings, draw_many
from whylens.planted.drawing.world import BACKGROUNDS, LINKS, OBJECTS, draw, sample_scene


@pytest.fixture(scope="module")
def collections() -> Collections:
    mixed = draw_many("unlinked", 900, 41)
    neutral = mixed.select(shows_nothing(mixed))
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
    classifier = load_classifier("planted:biased")
    seen = study(classifier, collections)
    for_context = partial(follows_context, classifier, ("unlinked", 43))
    row, curve = check_seed(seen, seen, collections, for_context)
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


def test_what_came_with_classes_without_a_link_in_training_is_nothing_planted() -> None:
    scenes = [sample_scene("linked", 61, index) for index in range(4000)]
    planted = {link.feature for link in LINKS}
    plain = [s.object for s in scenes if not planted & {s.background, s.companion}]
    without_link = set(OBJECTS) - {link.object for link in LINKS}
    assert len(without_link) == 2
    assert 0.78 < sum(name in without_link for name in plain) / len(plain) < 0.88
    for name in OBJECTS:
        assert (plain.count(name) / len(plain) > 3 / len(OBJECTS)) == (name in without_link)


def test_of_an_emptied_drawing_the_context_stays_and_elsewhere_the_object_does() -> None:
    emptied, elsewhere = changed([sample_scene("clear", 62, index) for index in range(30)])
    same_border = 0
    for row in range(30):
        drawn = draw(sample_scene("clear", 62, row))
        # Companions stand in the corners, the object near the middle.
        inside = drawn.masks["object"][20:44, 20:44]
        unlike = np.abs(drawn.image.astype(int) - elsewhere[row]).max(2)
        assert np.median(unlike[20:44, 20:44][inside]) < 12
        assert drawn.scene.object is not None
        gone = np.abs(drawn.image.astype(int) - emptied[row]).max(2)
        assert np.median(gone[20:44, 20:44][inside]) > 30
        bare = draw(replace(drawn.scene, object=None))
        np.testing.assert_array_equal(bare.image, emptied[row])
        assert not bare.masks["object"].any()
        same_border += np.median(unlike[0]) < 12
    assert same_border < 12


def test_findings_are_counted_against_the_truth_by_hand() -> None:
    link = next(link for link in LINKS if link.kind == "background")
    unlinked = next(
        i for i, name in enumerate(OBJECTS) if name not in {link.object for link in LINKS}
    )
    k = OBJECTS.index(link.object)
    other = next(i for i in range(len(OBJECTS)) if i not in (k, unlinked))
    planted = {link.feature for link in LINKS}
    free = next(i for i, name in enumerate(BACKGROUNDS) if name not in planted)
    # Ten drawings with the feature, ten with nothing planted.
    backgrounds = np.repeat([BACKGROUNDS.index(link.feature), free], 10)
    pool = Drawings(np.zeros((20, 1, 1, 3), np.uint8), np.full(20, other), backgrounds,
                    np.full(20, -1))  # fmt: skip
    feature, nothing = list(range(10)), list(range(10, 20))
    context, objects = np.where(backgrounds == free, unlinked, k), np.full(20, other)

    def judged(index: int, rows: list[list[int]], suspicious: list[int], same: list[int]) -> object:
        # The last row of each is not called the class.
        called = np.arange(len(rows[0])) < len(rows[0]) - 1
        return SimpleNamespace(
            components=SimpleNamespace(class_index=index),
            mined=SimpleNamespace(rows=np.array(rows), predicted=np.array([called] * len(rows))),
            evidence=SimpleNamespace(same_as=np.array(same)),
            suspicious=suspicious,
        )

    def compared(
        found: list[object], emptied: np.ndarray, elsewhere: np.ndarray
    ) -> tuple[float, ...]:
        def for_context(index: int, drawn: Sequence[int]) -> bool:
            return more_often(emptied[drawn] == index, elsewhere[drawn] == index)

        row = compare(found, pool, for_context)  # type: ignore[arg-type]
        assert row["planted"] == len(LINKS)
        return row["findings"], row["true_findings"], row["found"], row["sufficiency.refused"]

    # Two components of one feature count once; a third shows something else; the last is refused.
    of_link = judged(k, [feature, feature, nothing, nothing], [0, 1, 2], [0, 0, 2, 3])
    none = judged(unlinked, [feature], [], [0])
    # Of three components that show nothing of their class's two are refused.
    assert compared([of_link, none], context, objects) == (2, 1, 1, pytest.approx(2 / 3))
    # Of a class without a link it is true where nothing planted shows; no link is found by that.
    plain = judged(unlinked, [nothing, feature], [0, 1], [0, 1])
    assert compared([plain], context, objects) == (2, 1, 0, 0)
    # Look-alikes stay called the class wherever they stand, and no more without the object. Of a
    # class with a link it is known what was planted.
    for emptied, elsewhere in ((context, context), (objects, context), (objects, objects)):
        assert compared([of_link, plain], emptied, elsewhere)[:3] == (4, 1, 1)
    # Four of nine and none might be chance: one in 16. Five are no chance: one in 32.
    for stay, true in ((4, 0), (5, 1)):
        emptied = np.where(np.arange(20) >= 20 - stay - 1, unlinked, other)
        found = [judged(unlinked, [nothing], [0], [0]), none]
        assert compared(found, emptied, objects)[:2] == (1, true)
