"""One list of classes for heads of several label sets."""

import numpy as np
import pytest
from timm.data import ImageNetInfo

from whylens.classifiers.label_sets import head_columns, label_space

TEDDY = 850  # n04399382: in ImageNet-1k, but not in the lists of 21,841 and 21,843 classes


def names(subset: str) -> tuple[str, ...]:
    return tuple(ImageNetInfo(subset).label_descriptions())


@pytest.mark.parametrize(
    ("subset", "classes", "lacks"),
    [
        ("imagenet-21k-goog", 21843, [TEDDY]),
        ("imagenet-22k", 21841, [TEDDY]),
        ("imagenet-22k-ms", 21842, []),
    ],
)
def test_larger_imagenet_heads_are_asked_about_the_thousand_classes_by_synset(
    subset: str, classes: int, lacks: list[int]
) -> None:
    large = names(subset)
    assert len(large) == classes
    space = label_space(large)
    assert space == names("imagenet-1k")
    columns = head_columns(space, large)
    assert columns.shape == (1000,)
    assert np.flatnonzero(columns < 0).tolist() == lacks
    of_head, of_space = ImageNetInfo(subset), ImageNetInfo()
    for k in np.flatnonzero(columns >= 0):
        assert of_head.index_to_label_name(columns[k]) == of_space.index_to_label_name(k)


def test_a_head_of_the_same_classes_keeps_its_order() -> None:
    own = names("imagenet-1k")
    assert len(set(own)) < 1000  # the crane that flies and the one that lifts
    assert label_space(own) == own
    assert head_columns(own, own).tolist() == list(range(1000))


def test_other_heads_are_matched_by_name_then_by_synonym() -> None:
    space = ("sea_lion", "crane", "crane", "tench, Tinca tinca", "Great Dane")
    head = ("dog", "Tinca tinca", "crane", "Sea Lion, Otaria")
    assert label_space(space) == space
    # One logit is no evidence for two classes.
    assert head_columns(space, head).tolist() == [3, 2, -1, 1, -1]


def test_a_thousand_classes_with_other_names_are_not_taken_for_imagenets() -> None:
    own = tuple(f"kind {index}" for index in range(1000))
    assert label_space(own) == own
    assert (head_columns(names("imagenet-1k"), own) == -1).all()
