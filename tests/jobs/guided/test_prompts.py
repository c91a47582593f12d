"""Prompts and captions: what the sampler is asked."""

import pytest
from pydantic import TypeAdapter, ValidationError

from whylens.jobs.guided.prompts import PromptTemplate, prompt_for, prompt_pair, swap_class
from whylens.jobs.words import plain_name


def test_a_class_is_called_by_its_everyday_name() -> None:
    assert plain_name("great_white_shark, Carcharodon") == "great white shark"
    assert prompt_for("a photo of a {class}", "umbrella") == "a photo of an umbrella"
    assert prompt_for("a {class} on grass, {class}", "fish") == "a fish on grass, fish"


@pytest.mark.parametrize(
    ("caption", "swapped"),
    [
        ("a photo of a fish on bricks with a lamp", "a photo of an owl on bricks with a lamp"),
        ("Fish", "owl"),
        ("a starfish on sand", None),
        ("", None),
    ],
)
def test_only_the_class_word_is_swapped(caption: str, swapped: str | None) -> None:
    assert swap_class(caption, "fish", "owl, night bird") == swapped


def test_a_caption_without_the_class_falls_back_on_the_template() -> None:
    plain = ("a photo of a fish", "a photo of a key")
    assert prompt_pair(None, "a photo of a {class}", "fish", "key") == plain
    assert prompt_pair("water", "a photo of a {class}", "fish", "key") == plain
    own = ("a fish on sand", "a key on sand")
    assert prompt_pair(own[0], "a photo of a {class}", "fish", "key") == own


def test_a_template_must_have_a_place_for_the_class() -> None:
    with pytest.raises(ValidationError, match="class"):
        TypeAdapter(PromptTemplate).validate_python("a photo of a {name}")


def test_an_image_that_is_led_to_what_it_shows_keeps_its_caption():
    caption = "a photo of a arrow on sunset"
    assert prompt_pair(caption, "a {class}", "arrow", "arrow") == (caption, caption)
