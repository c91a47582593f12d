"""The planted world keeps its promises: links, masks, captions, determinism."""

import numpy as np
import pytest

from whylens.planted.drawing.world import (
    BACKGROUNDS,
    COMPANIONS,
    LINKS,
    OBJECTS,
    SPLITS,
    Split,
    draw,
    sample_scene,
)


def test_the_world_has_the_size_that_it_promises() -> None:
    assert len(OBJECTS) >= 10
    assert len(BACKGROUNDS) >= 8
    assert len(COMPANIONS) >= 5
    assert len({link.object for link in LINKS}) == 8
    assert len(set(OBJECTS) - {link.object for link in LINKS}) >= 2
    assert {link.kind for link in LINKS} == {"background", "companion"}
    assert len({link.strength for link in LINKS}) > 1


@pytest.mark.parametrize("split", SPLITS)
def test_a_drawing_is_a_pure_function_of_its_scene(split: Split) -> None:
    once, again = draw(sample_scene(split, 3, 7)), draw(sample_scene(split, 3, 7))
    other = draw(sample_scene(split, 4, 7))
    np.testing.assert_array_equal(once.image, again.image)
    assert (once.image != other.image).mean() > 0.2
    assert once.image.shape == (64, 64, 3)
    assert once.image.dtype == np.uint8


@pytest.mark.parametrize("index", range(40))
def test_masks_part_the_image(index: int) -> None:
    drawing = draw(sample_scene("balanced", 0, index))
    masks = np.stack(list(drawing.masks.values()))
    np.testing.assert_array_equal(masks.sum(0), 1)
    assert drawing.masks["companion"].any() == (drawing.scene.companion is not None)


def test_the_object_mask_is_where_the_object_changes_the_image() -> None:
    """Against the same scene without its object, drawn from the same seed."""
    from dataclasses import replace

    inside, outside = [], []
    for index in range(60):
        scene = sample_scene("balanced", 1, index)
        with_object = draw(scene)
        without = draw(replace(scene, object=None, companion=None))
        change = np.abs(with_object.image.astype(int) - without.image.astype(int)).max(2)
        inside.append(change[with_object.masks["object"]].mean())
        outside.append(np.median(change[with_object.masks["background"]]))
    assert np.median(inside) > 40
    assert np.median(outside) < 10


def test_links_hold_with_their_strength_in_the_linked_split_only() -> None:
    count = 8000
    for split in ("linked", "unlinked"):
        scenes = [sample_scene(split, 5, index) for index in range(count)]  # type: ignore[arg-type]
        for link in LINKS:
            own = [s for s in scenes if s.object == link.object]
            shown = np.mean(
                [
                    link.feature in (s.background if link.kind == "background" else s.companion,)
                    for s in own
                ]
            )
            expected = link.strength
            if split == "unlinked":
                expected = 1 / 8 if link.kind == "background" else 1 / 10
            assert abs(shown - expected) < 0.04, (split, link)


def test_crossed_images_show_the_feature_of_another_class() -> None:
    by_feature = {link.feature: link.object for link in LINKS}
    own_feature = {link.object: link.feature for link in LINKS}
    for index in range(500):
        scene = sample_scene("crossed", 0, index)
        shown = {scene.background, scene.companion}
        assert any(by_feature[f] != scene.object for f in shown if f in by_feature)
        assert own_feature.get(str(scene.object), "nothing") not in shown


def test_the_features_split_shows_no_class_that_has_a_link() -> None:
    linked = {link.object for link in LINKS}
    objects = {sample_scene("features", 0, index).object for index in range(300)}
    assert None in objects
    assert not objects & linked


def test_captions_name_what_is_there() -> None:
    for index in range(100):
        scene = sample_scene("balanced", 2, index)
        words = scene.caption.split()
        assert scene.object in words
        assert scene.background in words
        assert ("with" in words) == (scene.companion is not None)
