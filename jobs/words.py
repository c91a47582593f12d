"""Numbers and nouns as people write them: words that know no data."""

from __future__ import annotations

from collections.abc import Sequence


def percent(value: float | None) -> str:
    """A probability or share in [0, 1]: 0.943 -> "94%", tiny -> "<1%", None -> "?"."""
    if value is None:
        return "?"
    if 0 < value < 0.01:
        return "<1%"
    if 0.99 < value < 1:
        return ">99%"
    return f"{100 * value:.0f}%"


def times(value: float) -> str:
    """A ratio in words: 3.24 -> "3.2 times", 640 -> "more than 100 times"."""
    if value > 100:
        return "more than 100 times"
    return f"{value:.1f} times" if value < 10 else f"{value:.0f} times"


def amount(count: int, one: str, many: str | None = None) -> str:
    """A count with its noun: 1 image, 2,000 images."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def listed(words: Sequence[str], most: int = 5) -> str:
    """Words as a list in prose: "a, b and c", "a, b and 4 more"."""
    kept = list(words[:most])
    if len(words) > most:
        kept = [*words[: most - 1], f"{len(words) - most + 1} more"]
    return kept[0] if len(kept) == 1 else f"{', '.join(kept[:-1])} and {kept[-1]}" if kept else ""


def article(noun: str) -> str:
    """The noun with a or an: "a fish", "an apple"."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def plain_name(class_name: str) -> str:
    """A class's everyday name: the first synonym, words apart ("tench, Tinca" -> "tench")."""
    return class_name.split(",")[0].replace("_", " ").strip()
