"""The collection's class names against the classifier's."""

import difflib
from collections.abc import Iterable, Sequence


def fold(name: str) -> str:
    """A class name without case, underscores, hyphens and repeated spaces."""
    return " ".join(name.replace("_", " ").replace("-", " ").casefold().split())


def synonyms(class_names: Sequence[str]) -> dict[str, int]:
    """Class index by folded name: the whole name, and each of its comma-separated synonyms.

    A name that several classes have is the first one's.
    """
    known: dict[str, int] = {}
    for index, joined in enumerate(class_names):
        for synonym in (joined, *joined.split(",")):
            known.setdefault(fold(synonym), index)
    return known


def match_classes(names: Iterable[str], class_names: Sequence[str]) -> dict[str, int]:
    """Class index of each name that the classifier knows.

    A name matches a class, or one of its comma-separated synonyms, ignoring case, underscores and
    hyphens; a number matches the class of that index; a WordNet id (n01440764) matches where the
    classifier has ImageNet's 1,000 classes. Names without a match are left out.
    """
    known = synonyms(class_names)
    wordnet = _wordnet() if len(class_names) == 1000 else {}
    matched = {}
    for name in sorted(set(names)):
        if fold(name) in known:
            matched[name] = known[fold(name)]
        elif name.isdecimal() and int(name) < len(class_names):
            matched[name] = int(name)
        elif name in wordnet:
            matched[name] = wordnet[name]
    return matched


def near_classes(name: str, class_names: Sequence[str]) -> list[str]:
    """Up to three class names that look like `name`."""
    known = {fold(s): s.strip() for joined in class_names for s in joined.split(",")}
    return [known[near] for near in difflib.get_close_matches(fold(name), known, n=3)]


def near_hint(name: str, known: Iterable[str]) -> str:
    """What follows in a message that `name` is not among the known names: up to three near ones."""
    near = difflib.get_close_matches(name, list(known), n=3)
    return f"; near names: {', '.join(near)}" if near else ""


def _wordnet() -> dict[str, int]:
    from timm.data import ImageNetInfo

    return {synset: index for index, synset in enumerate(ImageNetInfo().label_names())}
