"""A batch of independent problems as one value: tensors whose first axis is the problem."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """A frozen dataclass of tensors [B, ...], one row a problem.

    A field may be a tensor, another batch, a mapping of tensors by name, or None. Whatever else a
    field holds belongs to all problems alike, and is passed on as it is.
    """

    def __len__(self) -> int:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor | Batch):
                return len(value)
        raise TypeError(f"a {type(self).__name__} of no tensors has no problems to count")

    def select(self, rows: Tensor) -> Self:
        """Some problems of the batch, in the order of `rows` [b], as often as they are named."""
        return self._map(lambda values: values[0][rows.to(values[0].device)], [self])

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """The problems of several batches as one.

        Raises
        ------
        ValueError
            If a field is there in some parts only, or what belongs to all problems is not the same.
        """
        return parts[0]._map(torch.cat, parts)

    def _map(self, join: Callable[[list[Tensor]], Tensor], parts: Sequence["Batch"]) -> Self:
        """The batch with `join` of the parts' tensors in place of each tensor."""
        joined = {
            field.name: _joined(field.name, join, [getattr(part, field.name) for part in parts])
            for field in fields(self)
        }
        return replace(self, **joined)


def _joined(name: str, join: Callable[[list[Tensor]], Tensor], values: list[Any]) -> Any:
    first = values[0]
    if len({type(value) for value in values}) > 1:
        raise ValueError(f"of a batch all problems have {name}, or none has")
    if isinstance(first, Tensor):
        return join(values)
    if isinstance(first, Batch):
        return first._map(join, values)
    if isinstance(first, Mapping):
        return {key: join([value[key] for value in values]) for key in first}
    if any(value is not first for value in values):
        raise ValueError(f"batches of different {name} can't be one batch")
    return first


def beside(values: Tensor, like: Tensor) -> Tensor:
    """Values [B], one a problem, in the shape in which they weigh `like` [B, ...]."""
    return values.view(-1, *(1,) * (like.ndim - 1))


def lengthened(values: Tensor, count: int) -> Tensor:
    """Values [B, ...] with zeros for so many more problems behind them."""
    return torch.cat([values, values.new_zeros(count, *values.shape[1:])])


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Values of the host on a device, without waiting for it."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
