"""A batch is one value: what is selected of it, and joined, is so at every depth."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from whylens.batch import Batch


@dataclass(frozen=True)
class Inner(Batch):
    """A batch with something that belongs to all problems alike."""

    values: Tensor
    shared: object
    missing: Tensor | None = None


@dataclass(frozen=True)
class Outer(Batch):
    """A batch in a batch."""

    inner: Inner
    named: dict[str, Tensor]
    rows: Tensor


def batch(first: int, count: int, shared: object = "all") -> Outer:
    rows = torch.arange(first, first + count)
    return Outer(Inner(rows[:, None] * 2.0, shared), {"a": rows.float() + 0.5}, rows)


def test_rows_are_selected_everywhere_as_often_as_they_are_named():
    whole = batch(0, 4)
    some = whole.select(torch.tensor([2, 0, 2]))
    assert (len(whole), len(some)) == (4, 3)
    assert some.rows.tolist() == [2, 0, 2]
    assert some.inner.values.tolist() == [[4.0], [0.0], [4.0]]
    assert some.named["a"].tolist() == [2.5, 0.5, 2.5]
    assert (some.inner.shared, some.inner.missing) == ("all", None)


def test_parts_joined_again_are_the_whole():
    whole = batch(0, 5)
    parts = [whole.select(rows) for rows in torch.arange(5).split([2, 3])]
    again = Outer.cat(parts)
    assert torch.equal(again.rows, whole.rows)
    assert torch.equal(again.inner.values, whole.inner.values)
    assert torch.equal(again.named["a"], whole.named["a"])


def test_what_does_not_belong_together_is_no_batch():
    with pytest.raises(ValueError, match="different shared"):
        Outer.cat([batch(0, 1, object()), batch(1, 1, object())])
    full = Inner(torch.zeros(1), None, torch.zeros(1))
    with pytest.raises(ValueError, match="all problems have missing, or none has"):
        Inner.cat([full, Inner(torch.zeros(1), None)])
