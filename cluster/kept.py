"""Models stay loaded in a worker's process from one stage to the next, by name and options."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

Loaded = TypeVar("Loaded")

_kept: dict[tuple[Any, ...], Any] = {}
# What the worker that is being made has asked for; None outside of `keeping`.
_asked: set[tuple[Any, ...]] | None = None


def kept(load: Callable[..., Loaded], *arguments: Any) -> Loaded:
    """`load(*arguments)`, or what it gave to the worker before in this process.

    Outside of a host (`whylens.cluster.workers.Host`) nothing is kept.
    """
    if _asked is None:
        return load(*arguments)
    key = (load, *arguments)
    _asked.add(key)
    if key not in _kept:
        _kept[key] = load(*arguments)
    model: Loaded = _kept[key]
    return model


@contextmanager
def keeping() -> Iterator[None]:
    """Keep what is asked for inside; at the end, what was kept before and isn't asked for goes."""
    global _asked
    _asked = set()
    try:
        yield
    finally:
        for key in _kept.keys() - _asked:
            del _kept[key]
        _asked = None
