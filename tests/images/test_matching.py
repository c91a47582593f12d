"""The collection's class names against the classifier's."""

import pytest
from timm.data import ImageNetInfo

from whylens.images import ImageRecord, labels_of, match_classes, near_classes

NAMES = ("tench, Tinca tinca", "great white shark, white shark", "sea lion", "7", "crane", "crane")


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("tench", 0),
        ("TINCA_TINCA", 0),
        ("tench, Tinca tinca", 0),
        ("White-Shark", 1),
        ("great  white_shark", 1),
        ("Sea_Lion", 2),
        ("0", 0),
        ("002", 2),
        # A name goes before a number, the first of two namesakes before the second.
        ("7", 3),
        ("crane", 4),
    ],
)
def test_a_name_is_matched_by_case_underscores_synonyms_and_number(name: str, index: int) -> None:
    assert match_classes([name], NAMES) == {name: index}


@pytest.mark.parametrize("name", ["shark", "6", "-1", "1.0", "²", "٣٣", "", "n01440764"])
def test_a_name_that_the_classifier_does_not_know_is_left_out(name: str) -> None:
    assert match_classes([name, "tench"], NAMES) == {"tench": 0}


def test_wordnet_ids_match_a_classifier_of_imagenets_thousand_classes() -> None:
    info = ImageNetInfo()
    classes = tuple(info.label_descriptions())
    known = {"n01440764": 0, "n02124075": 285, "n15075141": 999}
    assert match_classes([*known, "n00000000"], classes) == known
    assert classes[285].startswith("Egyptian cat")
    synsets = info.label_names()
    assert match_classes(synsets, classes) == {s: i for i, s in enumerate(synsets)}


def test_names_are_matched_once_each_however_often_they_occur() -> None:
    assert match_classes(["sea lion", "tench", "sea lion"], NAMES) == {"sea lion": 2, "tench": 0}


@pytest.mark.parametrize(
    ("name", "near"),
    [("tensch", ["tench"]), ("white_sharks", ["white shark", "great white shark"]), ("zzz", [])],
)
def test_near_names_are_given_as_the_classifier_writes_them(name: str, near: list[str]) -> None:
    assert near_classes(name, NAMES) == near


def test_records_get_their_class_or_minus_one() -> None:
    names = ("tench", None, "unknown", "7")
    records = [ImageRecord(str(k), "", name) for k, name in enumerate(names)]
    labels = labels_of(records, match_classes((n for n in names if n), NAMES))
    assert labels.tolist() == [0, -1, -1, 3]
    assert labels.dtype.name == "int32"
