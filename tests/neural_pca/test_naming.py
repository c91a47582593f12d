"""Names by embeddings whose words are known."""

import numpy as np
import pytest

from whylens.errors import UsageError
from whylens.neural_pca.naming import names

WORDS = ("sea", "fish", "night")


def test_the_name_is_what_images_share_beyond_the_others():
    generator = np.random.default_rng(0)
    # Text embeddings share a large part, which says nothing.
    texts = 5 * np.ones((3, 8)) + np.eye(8)[:3]

    def pictures(count, *shown):
        return 3 * np.ones((count, 8)) + sum(np.eye(8)[WORDS.index(w)] for w in shown) + (
            0.2 * generator.normal(size=(count, 8))
        )  # fmt: skip

    fishes, at_sea = pictures(200, "fish"), pictures(50, "fish", "sea")
    (first, score), *rest = names(at_sea, fishes, texts, WORDS)
    assert first == "sea"
    assert score > 0.5 > max(value for _, value in rest)
    direction = (at_sea / np.linalg.norm(at_sea, axis=1, keepdims=True)).mean(0)
    direction -= (fishes / np.linalg.norm(fishes, axis=1, keepdims=True)).mean(0)
    own = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    own -= own.mean(0)
    expected = own[0] @ direction / np.linalg.norm(own[0]) / np.linalg.norm(direction)
    assert score == pytest.approx(expected)
    # Beside images of nothing, the object is what is shared, too.
    assert {word for word, _ in names(at_sea, pictures(200), texts, WORDS, top=2)} == {
        "sea", "fish"
    }  # fmt: skip


def test_what_cannot_be_named_is_told():
    with pytest.raises(UsageError, match="others beside"):
        names(np.zeros((0, 2)), np.ones((1, 2)), np.ones((2, 2)), ["a", "b"])
    with pytest.raises(UsageError, match="two words"):
        names(np.ones((1, 2)), np.ones((1, 2)), np.ones((1, 2)), ["a"])
