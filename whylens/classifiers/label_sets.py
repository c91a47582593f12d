"""One list of classes for heads of different label sets: ImageNet's by synset, others by name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from whylens.images.matching import fold, synonyms


def label_space(class_names: Sequence[str]) -> tuple[str, ...]:
    """The classes that a head is asked about: ImageNet's 1,000 for a head of any ImageNet list.

    That is, of the lists that timm ships: 1,000, 11,221, 11,821, 21,841, 21,842 and 21,843 classes.
    Any other head is asked about its own classes.
    """
    from timm.data import ImageNetInfo

    if _synsets(class_names) is None:
        return tuple(class_names)
    return tuple(ImageNetInfo().label_descriptions())


def head_columns(space: Sequence[str], class_names: Sequence[str]) -> NDArray[np.int64]:
    """The head's logit of each class of a label space, [K]; -1 where the head lacks the class.

    Two ImageNet lists are matched by synset id (many of their names stand for several classes),
    others by the whole name, then by each synonym. No logit stands for two classes.
    """
    if tuple(space) == tuple(class_names):
        return np.arange(len(space))
    known, keys = _synsets(class_names), _synsets(space)
    if known is not None and keys is not None:
        place = {synset: index for index, synset in enumerate(known)}
        return np.asarray([place.get(synset, -1) for synset in keys], dtype=np.int64)
    named = synonyms(class_names)
    columns, taken = [], set[int]()
    for name in space:
        words = (fold(word) for word in (name, *name.split(",")))
        found = next((named[w] for w in words if w in named and named[w] not in taken), -1)
        taken.add(found)
        columns.append(found)
    return np.asarray(columns, dtype=np.int64)


def _synsets(class_names: Sequence[str]) -> tuple[str, ...] | None:
    """The synset ids of a head whose class names are one of timm's ImageNet lists."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": len(class_names)})
    if subset is None:
        return None
    info = ImageNetInfo(subset)
    same = tuple(info.label_descriptions()) == tuple(class_names)
    return tuple(info.label_names()) if same else None
