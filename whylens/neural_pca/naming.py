"""Names of what images share, from any vocabulary that a CLIP model knows.

What images of a component, a neuron or a slice share beyond their class is a direction in the
model's embeddings: their mean minus the mean of images that they are compared with. Words are
ranked by their text embeddings' inner products with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from whylens.errors import UsageError

Array = NDArray[np.float64]
Rows = NDArray[np.floating]


def names(
    shown: Rows, others: Rows, texts: Rows, words: Sequence[str], *, top: int = 3
) -> list[tuple[str, float]]:
    """The words that say best what images share: (word, score), the best first.

    Parameters
    ----------
    shown, others
        Image embeddings [N, D] of what is to be named, and of the images that it is compared with,
        [M, D]: the class's, say.
    texts, words
        Text embeddings [V, D] of the vocabulary's V words. A text's part that all share ("a photo
        of") counts for none.

    A score is a cosine, in [-1, 1].

    Raises
    ------
    UsageError
        If there are no images on one side, or fewer than two words.
    """
    if len(words) < 2:
        raise UsageError("a vocabulary has at least two words")
    scores = alike(texts, unit(texts).mean(0), shared(shown, others)[None])[:, 0]
    return [(words[row], float(scores[row])) for row in np.argsort(-scores, kind="stable")[:top]]


def shared(shown: Rows, others: Rows) -> Array:
    """What images [N, D] share beyond others [M, D]: a direction [D] of length 1.

    Raises
    ------
    UsageError
        If there are no images on one side.
    """
    if len(shown) == 0 or len(others) == 0:
        raise UsageError("a name needs images that show something, and others beside them")
    direction: Array = unit((unit(shown).mean(0) - unit(others).mean(0))[None])[0]
    return direction


def alike(texts: Rows, common: Array, directions: Rows) -> Array:
    """Cosines [T, N] of texts [T, D] with directions [N, D].

    `common` [D], the mean of a vocabulary's texts of length 1, is taken from each text first.
    """
    scores: Array = unit(unit(texts) - common) @ np.asarray(directions, np.float64).T
    return scores


def unit(rows: Rows) -> Array:
    """Rows [N, D] of length 1."""
    values = np.asarray(rows, np.float64)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    scaled: Array = values / np.maximum(length, 1e-12)
    return scaled
