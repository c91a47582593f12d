"""An explanation in words, and as one self-contained page."""

from __future__ import annotations

from typing import Any

from whylens.jobs.people.explanation import Explanation
from whylens.jobs.people.waterfall import laid_out, signed
from whylens.jobs.report.page import rendered, stylesheet
from whylens.jobs.report.pictures import data_uri
from whylens.jobs.words import listed, percent, plain_name


def render(found: Explanation) -> str:
    """The page as text, with nothing loaded from anywhere."""
    return _rendered(
        "explain.html.j2",
        found,
        "The same figure is in waterfall.png, the numbers are in explain.json.",
        css=stylesheet("parts.css", "report.css", "explain.css"),
    )


def body(found: Explanation) -> str:
    """What the page says, to be shown inside of another; its style sheet is explain.css."""
    return _rendered("explained.html.j2", found, "")


def _rendered(template: str, found: Explanation, elsewhere: str, **values: Any) -> str:
    return rendered(
        template,
        found=found,
        bars=laid_out(found),
        sentences=sentences(found),
        raw=lambda content: data_uri(content, "image/png"),
        short=plain_name,
        signed=signed,
        elsewhere=elsewhere,
        **values,
    )


def sentences(found: Explanation) -> list[str]:
    """The decision in words."""
    name, predicted = plain_name(found.class_name), plain_name(found.predicted)
    mine = found.changes[0]
    if predicted != name:
        said = [f"{found.classifier} says {predicted}, and {name} with {percent(mine.before)}."]
    else:
        said = [f"{found.classifier} says {name}, with a probability of {percent(mine.before)}."]
    spurious = [c for c in found.contributions if c.removed > 0]
    if spurious:
        things = [", ".join(c.words[:1]) or f"component {c.component}" for c in spurious]
        amount = signed(sum(c.removed for c in spurious))
        said.append(
            f"What counts as spurious ({listed(list(dict.fromkeys(things)))}) adds {amount} to the "
            f"logit of {name}."
        )
    if not found.repaired:
        said.append("SpuFix would change nothing: no spurious component raises a class here.")
    elif (after := plain_name(found.fixed_prediction)) != predicted:
        said.append(f"After SpuFix the classifier would say {after}.")
    else:
        said.append(f"After SpuFix it would still say {after}; {name} gets {percent(mine.after)}.")
    return said
