"""The sampler's words: a prompt for a class, a caption whose class is swapped."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from whylens.jobs.words import article, plain_name


def _naming(what: str, place: str) -> AfterValidator:
    """Checks that the `what` template names {place}, for which a word is put in."""

    def check(template: str) -> str:
        if f"{{{place}}}" not in template:
            raise ValueError(f"the {what} template must name {{{place}}} where the {place} goes")
        return template

    return AfterValidator(check)


PromptTemplate = Annotated[
    str,
    _naming("prompt", "class"),
    Field(description="Prompt for an image of a class; {class} stands for its name."),
]

FeatureTemplates = Annotated[
    list[Annotated[str, _naming("feature", "feature")]],
    Field(
        min_length=1,
        description="Prompts for an image of a feature, the best is taken; {feature} stands for "
        "its first word.",
    ),
]

PLAIN_TEMPLATE = "a photo of a {class}"
FEATURE_TEMPLATES = ["a photo of {feature}", "a photo of a {feature}"]


def prompt_for(template: str, class_name: str) -> str:
    """The template with the class's plain name in it, and "a" or "an" as it sounds."""
    name = plain_name(class_name)
    filled = re.sub(r"\ban? \{class\}", lambda _: article(name), template)
    return filled.replace("{class}", name)


def prompts_of(
    finding: Mapping[str, Any], feature_templates: Sequence[str], class_template: str
) -> list[str]:
    """The prompts that an image of a finding (class_name, guess) may start from.

    Where the feature has a name the class is left out: what a classifier says of the image is then
    the feature's doing.
    """
    if words := finding.get("guess"):
        name = plain_name(words[0])
        return [template.replace("{feature}", name) for template in feature_templates]
    return [prompt_for(class_template, finding["class_name"])]


def names(caption: str, name: str) -> bool:
    """Whether the name's first synonym stands in the caption as whole words, in any case."""
    return _as_words(name).search(caption) is not None


def _as_words(name: str) -> re.Pattern[str]:
    return re.compile(rf"(\ban?\s+)?\b{re.escape(plain_name(name))}\b", re.IGNORECASE)


def swap_class(caption: str, source: str, target: str) -> str | None:
    """The caption with the source class's name replaced by the target's; None: it is not in it.

    The name must stand as whole words, in any case: "a fish on bricks" -> "a key on bricks".
    """
    new = plain_name(target)
    swapped, count = _as_words(source).subn(
        lambda m: article(new) if m.group(1) else new, caption, count=1
    )
    return swapped if count else None


def prompt_pair(caption: str | None, template: str, source: str, target: str) -> tuple[str, str]:
    """What an image shows and what it should show: its own caption where that names its class."""
    if caption and source == target and names(caption, source):
        return caption, caption
    if caption:
        swapped = swap_class(caption, source, target)
        if swapped is not None:
            return caption, swapped
    return prompt_for(template, source), prompt_for(template, target)
