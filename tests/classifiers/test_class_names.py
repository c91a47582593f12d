"""Finding a class by what people call it."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whylens.classifiers import Classifier
from whylens.errors import UsageError
from whylens.images import match_classes
from whylens.images.matching import fold


@pytest.fixture
def seven(load: Callable[[str], Classifier]) -> Classifier:
    return load("checkpoint cnn")


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("tench, Tinca tinca", 0),
        ("Tench", 0),
        ("tinca_tinca", 0),
        ("tabby cat", 1),
        ("TABBY-CAT", 1),
        ("sea  lion", 3),
        ("great_dane", 4),
        ("5", 5),
        (5, 5),
        (0, 0),
        # A class that is called 7 is meant by its name, and by nothing else by its number.
        ("7", 2),
        (2, 2),
    ],
)
def test_a_class_is_found_by_name_synonym_and_number(
    seven: Classifier, name: str | int, index: int
) -> None:
    assert seven.class_index(name) == index
    if isinstance(name, str):
        # The collection's labels are read in the same way.
        assert match_classes([name], seven.class_names) == {name: index}


@pytest.mark.parametrize("name", [7, -1, 1000, "8", "0009"])
def test_a_number_out_of_range_says_which_there_are(seven: Classifier, name: str | int) -> None:
    with pytest.raises(UsageError, match=f"has the classes 0 to 6, not {int(name)}"):
        seven.class_index(name)


@pytest.mark.parametrize(("name", "near"), [("tensch", "tench"), ("great dame", "great dane")])
def test_a_misspelt_class_lists_near_names(seven: Classifier, name: str, near: str) -> None:
    with pytest.raises(UsageError, match=rf"has no class '{name}'; near names: .*{near}"):
        seven.class_index(name)


@pytest.mark.parametrize("name", ["zzzzzz", "-1", "²", ""])
def test_a_class_like_no_other_is_refused_without_a_guess(seven: Classifier, name: str) -> None:
    with pytest.raises(UsageError, match=f"has no class '{name}'$"):
        seven.class_index(name)


def test_every_class_of_imagenet_is_found_by_its_full_name(
    load: Callable[[str], Classifier],
) -> None:
    bundled = load("bundled")
    assert len(bundled.class_names) == 1000
    full = [bundled.class_index(name) for name in bundled.class_names[:50]]
    assert full == list(range(50))
    assert bundled.class_index("Egyptian cat") == 285
    assert bundled.class_index("goldfish") == 1
    assert bundled.class_index("Carassius auratus") == 1


@given(st.text(alphabet="aBc _-", max_size=12))
def test_folding_a_name_twice_changes_nothing(name: str) -> None:
    assert fold(fold(name)) == fold(name)
    assert fold(name) == fold(name.upper()) == fold(f" {name}_ ") == fold(name.replace("_", "-"))
