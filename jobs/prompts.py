"""The sampler's words: a prompt for a class, a caption whose class is swapped."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from whylens.jobs.report_words import article


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

FeatureTemplate = Annotated[
    str,
    _naming("feature", "feature"),
    Field(description="Prompt for an image of a feature; {feature} stands for its first word."),
]

PLAIN_TEMPLATE = "a photo of a {class}"
FEATURE_TEMPLATE = "a photo of {feature}"


def plain_name(class_name: str) -> str:
    """A class's everyday name: the first synonym, words apart ("tench, Tinca" -> "tench")."""
    return class_name.split(",")[0].replace("_", " ").strip()


def prompt_for(template: str, class_name: str) -> str:
    """The template with the class's plain name in it, and "a" or "an" as it sounds."""
    name = plain_name(class_name)
    filled = re.sub(r"\ban? \{class\}", lambda _: article(name), template)
    return filled.replace("{class}", name)


def prompt_of(finding: Mapping[str, Any], feature_template: str, class_template: str) -> str:
    """The prompt that an image of a finding (class_name, guess) starts from.

    Where the feature has a name the class is left out: what a classifier says of the image is then
    the feature's doing.
    """
    if words := finding.get("guess"):
        return feature_template.replace("{feature}", plain_name(words[0]))
    return prompt_for(class_template, finding["class_name"])


def swap_class(caption: str, source: str, target: str) -> str | None:
    """The caption with the source class's name replaced by the target's; None: it is not in it.

    The name must stand as whole words, in any case: "a fish on bricks" -> "a key on bricks".
    """
    old, new = plain_name(source), plain_name(target)
    pattern = re.compile(rf"(\ban?\s+)?\b{re.escape(old)}\b", re.IGNORECASE)
    swapped, count = pattern.subn(lambda m: article(new) if m.group(1) else new, caption, count=1)
    return swapped if count else None


def prompt_pair(caption: str | None, template: str, source: str, target: str) -> tuple[str, str]:
    """What an image shows and what it should show: its own caption where that names its class."""
    if caption:
        swapped = swap_class(caption, source, target)
        if swapped is not None:
            return caption, swapped
    return prompt_for(template, source), prompt_for(template, target)
