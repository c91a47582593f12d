"""What backward holds: bytes that a call keeps for its gradient, and bytes that are free.

Parameters never train here, so what a graph keeps of the networks' own tensors costs nothing, and
is not counted.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


class Held(NamedTuple):
    """Bytes: `kept` for backward while the graph is alive, `peak` at the most during the call."""

    kept: int
    peak: int


def held_by(call: Callable[[], Tensor], modules: Iterable[nn.Module] = ()) -> Held:
    """What `call`, which makes a graph, keeps for backward beside the tensors of `modules`.

    On a GPU by the allocator, forward and backward (what it rounds up and what kernels need beside
    counts, too). Elsewhere the storages that autograd saves, each once: exactly, on meta and fake
    tensors as well; `peak` is then `kept`.
    """
    if torch.cuda.is_available():
        devices = {p.device for module in modules for p in module.parameters()}
        cuda = next((device for device in devices if device.type == "cuda"), None)
        if cuda is not None:
            return _allocated(call, cuda)
    own = {
        _storage(tensor)
        for module in modules
        for tensor in (*module.parameters(), *module.buffers())
    }
    saved: dict[int, int] = {}
    # Storages stay alive until all are counted, or another could get a freed one's place.
    alive = []

    def pack(tensor: Tensor) -> Tensor:
        key = _storage(tensor)
        if key not in own and key not in saved:
            saved[key] = tensor.untyped_storage().nbytes()
            alive.append(tensor)
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    kept = sum(saved.values())
    return Held(kept, kept)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _allocated(call: Callable[[], Tensor], device: torch.device) -> Held:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    with torch.enable_grad():
        out = call()
        kept = torch.cuda.memory_allocated(device) - before
        out.sum().backward()  # type: ignore[no-untyped-call]
    torch.cuda.synchronize(device)
    return Held(kept, max(torch.cuda.max_memory_allocated(device) - before, kept))


def free_bytes(device: torch.device) -> int:
    """Bytes of a device that could be allocated now.

    Of a GPU what is free there and what PyTorch holds of it unused. Of a CPU this process's part of
    what the machine has available, by its threads: other workers have the rest.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free) + unused
    part = min(1.0, torch.get_num_threads() / (os.cpu_count() or 1))
    return int(_available() * part)


def _available() -> int:
    """Bytes of RAM that could be had: the machine's, or what a container's limit leaves of them."""
    found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if MEMINFO.is_file():
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        found = int(lines["MemAvailable"].split()[0]) * 1024
    most, used = CGROUP / "memory.max", CGROUP / "memory.current"
    if most.is_file() and used.is_file() and (limit := most.read_text().strip()) != "max":
        found = min(found, max(int(limit) - int(used.read_text()), 0))
    return found
