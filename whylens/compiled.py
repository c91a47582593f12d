"""Blocks of frozen networks that run compiled (`torch.compile`) where they are differentiated.

Blocks that repeat are compiled, once for each shape that they have, and not the network as a whole,
which takes several times as long for nearly the same gain. Only calls that backward comes through
are worth it, and of them those of sizes of batches that have come often: for another size, such as
that of the last unit or of a batch that some problems have left, each block would be compiled
again. Such a batch runs plainly.
"""

import importlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

# Sizes of batches that blocks are compiled for at most.
SIZES = 2
# Differentiated calls of a size after which compiling pays: what it saves in as many calls is about
# what it takes. Whoever has come that far is as likely to go on as to stop.
PAYS_AFTER = 4000
# Shapes of one kind of block times sizes; beyond PyTorch's own limit of 8 it would stop compiling.
MOST_SHAPES = 64

_plain: ContextVar[bool] = ContextVar("_plain", default=False)


@contextmanager
def uncompiled() -> Iterator[None]:
    """Blocks run as they are inside, whose parts are watched or changed."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


class CompiledBlocks:
    """Blocks of one network, compiled for the sizes of batches that it was often called with.

    Parameters
    ----------
    after
        Differentiated calls of a size that come before; 0: the first sizes are compiled at once.
    announced
        Calls are announced; else those of the first block count.
    backend
        torch.compile's.
    """

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        *,
        after: int = 0,
        announced: bool = True,
        backend: Any = "inductor",
    ) -> None:
        self.after, self._backend = after, backend
        self._announced = 0
        self._seen: set[int] = set()  # sizes of the calls that were announced last
        self._calls: Counter[int] = Counter()  # of each size, before them
        self._compiled: set[int] = set()  # sizes
        for place, block in enumerate(blocks):
            layer: Any = block
            counted = place == 0 and not announced
            # An attribute of the module itself, so that its class, names and hooks stay.
            layer.forward = self._forward(layer.forward, counted)

    def announce(self, calls: int) -> bool:
        """So many differentiated calls of a size are about to be made.

        Blocks change over here, if at all; returns whether they did.

        Not in the midst of them: where a checkpoint computes a segment again, it has to save what
        was saved before.
        """
        for size in self._seen:
            self._calls[size] += self._announced
        self._announced, self._seen = calls, set()
        before = len(self._compiled)
        for size, made in self._calls.items():
            if made >= self.after and len(self._compiled) < SIZES:
                self._compiled.add(size)
        return before != len(self._compiled)

    def _forward(self, plain: Callable[..., Any], counted: bool) -> Callable[..., Any]:
        compiled: Callable[..., Any] | None = None

        def forward(*inputs: Any, **options: Any) -> Any:
            nonlocal compiled
            if counted and torch.is_grad_enabled():
                self.announce(1)
            if not self._takes(inputs, options):
                return plain(*inputs, **options)
            if compiled is None:
                config: Any = importlib.import_module("torch._dynamo.config")
                config.recompile_limit = max(config.recompile_limit, MOST_SHAPES)
                compiled = torch.compile(plain, dynamic=False, backend=self._backend)
            return compiled(*inputs, **options)

        return forward

    def _takes(self, inputs: tuple[Any, ...], options: dict[str, Any]) -> bool:
        """Whether a call runs compiled."""
        # Blocks of a transformer that attends to text beside the image are given theirs by name.
        first = next(iter((*inputs, *options.values())), None)
        if (
            _plain.get()
            or not (torch.is_grad_enabled() and isinstance(first, Tensor) and first.requires_grad)
            # Such as recorders of cross-attention.
            or any(isinstance(value, dict) for value in options.values())
        ):
            return False
        self._seen.add(len(first))
        if self.after == 0 and len(self._compiled) < SIZES:
            self._compiled.add(len(first))
        return len(first) in self._compiled


def repeated_blocks(network: nn.Module) -> list[nn.Module]:
    """The blocks of the kind that a network has most of in its lists, such as its residual blocks.

    Empty where no kind of block occurs twice.
    """
    lists = (nn.Sequential, nn.ModuleList)
    blocks = {
        id(block): block
        for part in network.modules()
        if isinstance(part, lists)
        for block in part
        if type(block) not in lists and any(True for _ in block.children())
    }
    kinds = Counter(type(block) for block in blocks.values()).most_common(1)
    if not kinds or kinds[0][1] < 2:
        return []
    return [block for block in blocks.values() if type(block) is kinds[0][0]]
