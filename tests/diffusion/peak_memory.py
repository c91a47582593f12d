"""What a computation holds at once, by watching every tensor that it makes."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class PeakMemory(TorchDispatchMode):
    """`megabytes`: the largest sum of the storages that were made under it and lived at once.

    On any device, without the allocator's rounding or a cache.
    """

    def __init__(self):
        super().__init__()
        self.known = {}
        self.live = self.peak = 0

    @property
    def megabytes(self):
        return self.peak / 1e6

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {
            id(leaf.untyped_storage())
            for leaf in tree_iter((args, kwargs))
            if isinstance(leaf, torch.Tensor)
        }
        out = func(*args, **(kwargs or {}))
        for leaf in tree_iter(out):
            if isinstance(leaf, torch.Tensor) and id(leaf.untyped_storage()) not in given:
                self.count(leaf.untyped_storage())
        return out

    def count(self, storage):
        key, size = id(storage), storage.nbytes()
        if key in self.known:
            return
        self.known[key] = size
        weakref.finalize(storage, self.forget, key)
        self.live += size
        self.peak = max(self.peak, self.live)

    def forget(self, key):
        self.live -= self.known.pop(key)
