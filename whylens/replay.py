"""Calls of a frozen network, recorded once a shape and replayed: CUDA graphs, forward and backward.

At batches of a few images a GPU is quicker at a U-Net's thousand kernels than a processor at
starting them: Stable Diffusion 1.4's forward and backward take an H200 as long for 2 latents as for
8. A recorded call is one launch.

A recording works on memory of its own: its inputs, what backward needs, its results. So a call that
backward is to come through has its recording to itself until backward has, or until nobody can ask
for backward any more; a chain that holds s calls at once is s recordings, whose memory stays taken
where that of plain calls would come and go. (PyTorch's `make_graphed_callables` gives one call.)
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

logger = logging.getLogger(__name__)

Network = Callable[..., Tensor]
Key = tuple[Any, ...]

# Calls of a shape after which it is recorded. Recording takes about as long as six calls.
PAYS_AFTER = 30
# Calls before a recording, in which libraries choose and compile what they launch.
WARM_UP = 3
# What other threads do with the GPU, such as pinning memory, ends no capture.
MODE = "thread_local"


class Recording(Protocol):
    """A call that can be made again, with other values in the same shapes."""

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """The network's result; it is overwritten by the next call."""

    def backward(self, gradient: Tensor) -> Sequence[Tensor | None]:
        """The gradients by the inputs, None of those that asked for none; overwritten likewise."""


class Replayed:
    """A network whose calls are recorded where they repeat.

    Parameters
    ----------
    network
        A function of tensors whose result is one tensor; whatever it depends on beside them is
        constant.
    record
        Makes a recording of the network for inputs.
    after
        Calls of a shape that are made plainly before; then those behind the next `announce` are
        recorded.
    """

    def __init__(
        self,
        network: Network,
        record: Callable[[Network, Sequence[Tensor]], Recording] | None = None,
        after: int = PAYS_AFTER,
    ) -> None:
        self._network, self._after = network, after
        self._record = CudaRecording if record is None else record
        self._calls: Counter[Key] = Counter()
        self._repeated: set[Key] = set()
        self._free: defaultdict[Key, list[Recording]] = defaultdict(list)
        self._full = False

    def __call__(self, *given: Tensor, **named: Tensor) -> Tensor:
        """The network's result, which may be held and written to as that of a plain call."""
        inputs = (*given, *named.values())
        asks = torch.is_grad_enabled() and any(one.requires_grad for one in inputs)
        shapes = ((one.shape, one.dtype, asks and one.requires_grad) for one in inputs)
        key = (asks, tuple(named), *shapes)
        self._calls[key] += 1
        count = len(given)

        def network(*values: Tensor) -> Tensor:
            return self._network(*values[:count], **dict(zip(named, values[count:], strict=True)))

        # Memory that was taken in inference mode can't be written to outside of it.
        if key not in self._repeated or torch.is_inference_mode_enabled():
            return network(*inputs)
        lease = self._lease(key, network, inputs)
        if not asks:
            result = lease.recording.forward(inputs).clone()
            lease.end()
            return result
        replayed: Tensor = _Replay.apply(lease, *inputs)  # type: ignore[no-untyped-call]
        return replayed

    def announce(self) -> None:
        """A chain begins: shapes that were called often enough are recorded from here on.

        Not in the midst of one: where a checkpoint computes a segment again, it has to save what
        was saved before.
        """
        if not self._full:
            self._repeated = {key for key, calls in self._calls.items() if calls >= self._after}

    def forget(self) -> None:
        """Let go of all recordings: the network has changed."""
        self._free.clear()
        self._calls.clear()
        self._repeated.clear()

    def _lease(self, key: Key, network: Network, inputs: Sequence[Tensor]) -> "_Lease":
        """A recording of the shape that nobody uses.

        Raises
        ------
        RuntimeError
            If there is no memory for one, or an operation can't be recorded; calls of later chains
            are plain.
        """
        if not self._free[key]:
            # Recordings of a batch that has shrunk hold memory that the smaller one's need.
            for other in [k for k in self._free if k[0] == key[0] and k != key]:
                del self._free[other]
            try:
                # Where a checkpoint looks on, what is saved here is none of its business.
                with saved_tensors_hooks(Tensor.detach, lambda saved: saved):
                    self._free[key].append(self._record(network, inputs))
            except RuntimeError:
                logger.warning("a call of the U-Net can't be recorded: from here on all are plain")
                self._full = True
                self.forget()
                raise
        return _Lease(self._free[key].pop(), self._free[key])


class _Lease:
    """A recording that one call uses, until `end` or until the call is forgotten.

    A call is forgotten with what it saves for backward. It saves a token, since that is what a
    checkpoint drops in its first pass and makes again before backward; the lease hangs on the
    token's memory, which is the same in all copies that autograd makes of a tensor.
    """

    def __init__(self, recording: Recording, home: list[Recording]) -> None:
        self.recording, self._home = recording, home
        self.ended = False

    def token(self) -> Tensor:
        """A tensor whose memory holds the lease."""
        token = torch.empty(1)
        token.untyped_storage().lease = self  # type: ignore[attr-defined]
        return token

    @staticmethod
    def of(token: Tensor) -> "_Lease":
        """The lease that a token, or a copy of one, stands for."""
        lease: _Lease = token.untyped_storage().lease  # type: ignore[attr-defined]
        return lease

    def end(self) -> None:
        """Let others have the recording."""
        if not self.ended:
            self.ended = True
            self._home.append(self.recording)

    def __del__(self) -> None:
        self.end()


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, lease: _Lease, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(lease.token())
        return lease.recording.forward(inputs).clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (token,) = ctx.saved_tensors
        lease = _Lease.of(token)
        if lease.ended:
            raise RuntimeError("backward went through a recorded call before")
        found = lease.recording.backward(gradient)
        results = [None if one is None else one.clone() for one in found]
        lease.end()
        return (None, *results)


class CudaRecording:
    """A network's forward and backward as two CUDA graphs, in memory that is theirs alone."""

    def __init__(self, network: Network, inputs: Sequence[Tensor]) -> None:
        asks = torch.is_grad_enabled() and any(one.requires_grad for one in inputs)
        self._inputs = [
            one.detach().clone().requires_grad_(asks and one.requires_grad) for one in inputs
        ]
        asking = [one for one in self._inputs if one.requires_grad]
        device = inputs[0].device
        with torch.cuda.device(device), torch.set_grad_enabled(asks):
            current, aside = torch.cuda.current_stream(), _recording_stream(device)
            aside.wait_stream(current)
            # Left again whatever happens: a capture that fails would leave its stream the current.
            with torch.cuda.stream(aside):
                for _ in range(WARM_UP):
                    out = network(*self._inputs)
                    if asks:
                        torch.autograd.grad(out, asking, torch.zeros_like(out))
                    del out
                self._forward: Any = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self._forward, stream=aside, capture_error_mode=MODE):
                    self._out = network(*self._inputs)
                self._gradients: list[Tensor | None] = []
                if asks:
                    self._gradient = torch.zeros_like(self._out)
                    self._backward: Any = torch.cuda.CUDAGraph()
                    with torch.cuda.graph(
                        self._backward, self._forward.pool(), aside, capture_error_mode=MODE
                    ):
                        found = torch.autograd.grad(self._out, asking, self._gradient)
                    left = iter(found)
                    self._gradients = [
                        next(left) if one.requires_grad else None for one in self._inputs
                    ]
                self._out = self._out.detach()
            current.wait_stream(aside)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """As `Recording`."""
        with torch.no_grad():
            for own, given in zip(self._inputs, inputs, strict=True):
                own.copy_(given)
        self._forward.replay()
        return self._out

    def backward(self, gradient: Tensor) -> Sequence[Tensor | None]:
        """As `Recording`."""
        self._gradient.copy_(gradient)
        self._backward.replay()
        return self._gradients


@cache
def _recording_stream(device: torch.device) -> torch.cuda.Stream:
    """A device's stream that calls are recorded on.

    torch's own is of the device that came first. Libraries keep memory to work in for each stream
    that they were called on, tens of megabytes: so it is one for all recordings, warmed up, too.
    """
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
