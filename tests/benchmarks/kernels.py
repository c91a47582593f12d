"""How fast the operations of whylens.kernels are beside the plain PyTorch that they replace.

    python tests/benchmarks/kernels.py                          # the GPU where there is one
    python tests/benchmarks/kernels.py --device cpu --seconds 3
    python tests/benchmarks/kernels.py --operations group_norm_silu geglu

Each operation at the shapes of layers of Stable Diffusion 1.4 (four problems, so eight samples of
the U-Net, and one image of the decoder) and SDXL (one problem), in bfloat16; on a CPU at small
shapes in float32. Forward keeps what backward needs; backward alone; both. Times are taken in
turns, on a GPU with its cache emptied before each.

Prints a table and, as its last line, JSON. Of a row, by pass (forward, backward, both):

fused_ms, plain_ms   20th, 50th and 80th percentile of the milliseconds of a call
ratio                the median of the plain one by that of the fused: above 1, the fused is faster
gb_s                 the least bytes that the pass could move (each tensor read or written once) by
                     the fused one's median
least_mb             those bytes
held_mb              bytes that are held for backward, without weights: [fused, plain]
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from whylens.kernels import (
    class_disagreement,
    disagreement,
    frozen_conv,
    geglu,
    group_norm_silu,
    guided_ddim,
    guided_ddim_step,
)

GUIDED = {"guidance_scale": 3.0, "alpha_bar": 0.35, "alpha_bar_prev": 0.62}
PASSES = ("forward", "backward", "both")
# Larger than any GPU's cache.
CACHE_BYTES = 256 * 2**20


class Case(NamedTuple):
    """An operation at a shape: what is differentiated, and both ways to do it.

    `reads_inputs`: backward cannot do without them, since the operation is not linear.
    """

    inputs: list[Tensor]
    fused: Any
    plain: Any
    weights: tuple[Tensor, ...] = ()
    reads_inputs: bool = True


@dataclass(frozen=True)
class Where:
    """Device, dtype and layout of a case's tensors."""

    device: str
    dtype: torch.dtype

    def drawn(self, *shape: int) -> Tensor:
        """Normal numbers; maps [N, C, H, W] lie channels-last on a GPU."""
        tensor = torch.randn(shape, device=self.device, dtype=self.dtype)
        if len(shape) == 4 and self.device == "cuda":
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        return tensor


# ---- the operations ----


def ddim_case(where, shape):
    inputs = [where.drawn(*shape).requires_grad_() for _ in range(3)]
    plain = guided_ddim.reference
    return Case(
        inputs,
        lambda *z: guided_ddim_step(*z, **GUIDED),
        lambda *z: plain(*z, **GUIDED, prediction="epsilon"),
        reads_inputs=False,
    )


def disagreement_case(where, shape):
    inputs = [where.drawn(*shape).requires_grad_() for _ in range(2)]
    targets = [torch.randint(shape[1], shape[:1], device=where.device) for _ in range(2)]
    return Case(
        inputs,
        lambda *logits: disagreement(*logits, *targets),
        lambda *logits: class_disagreement.reference(*logits, *targets),
    )


def group_norm_case(where, shape):
    weight, bias = where.drawn(shape[1]), where.drawn(shape[1])
    return Case(
        [where.drawn(*shape).requires_grad_()],
        lambda x: group_norm_silu(x, weight, bias, groups=32),
        lambda x: F.silu(F.group_norm(x, 32, weight, bias)),
        (weight, bias),
    )


def conv_case(where, shape):
    *shape, out = shape
    weight, bias = where.drawn(out, shape[1], 3, 3), where.drawn(out)
    return Case(
        [where.drawn(*shape).requires_grad_()],
        lambda x: frozen_conv(x, weight, bias, padding=(1, 1)),
        lambda x: F.conv2d(x, weight, bias, padding=1),
        (weight, bias),
        reads_inputs=False,
    )


def geglu_case(where, shape):
    width = shape[-1]
    weight, bias = where.drawn(8 * width, width) / width**0.5, where.drawn(8 * width)

    def plain(x):
        hidden, gate = F.linear(x, weight, bias).chunk(2, dim=-1)
        return hidden * F.gelu(gate)

    return Case(
        [where.drawn(*shape).requires_grad_()],
        lambda x: geglu(x, weight, bias),
        plain,
        (weight, bias),
    )


# An operation's case, and its shapes on a GPU and on a CPU.
OPERATIONS = {
    "group_norm_silu": (
        group_norm_case,
        [
            # The U-Net's levels: Stable Diffusion 1.4's, then SDXL's.
            (8, 320, 64, 64), (8, 960, 64, 64), (8, 640, 32, 32), (8, 1280, 16, 16),
            (8, 1280, 8, 8), (2, 320, 128, 128), (2, 1280, 32, 32),
            # The decoder's.
            (1, 512, 64, 64), (1, 512, 256, 256), (1, 128, 512, 512),
        ],
        [(2, 64, 16, 16), (2, 128, 32, 32)],
    ),
    "geglu": (
        geglu_case,
        [(8, 4096, 320), (8, 1024, 640), (8, 256, 1280), (2, 4096, 640), (2, 1024, 1280)],
        [(2, 256, 48), (2, 64, 96)],
    ),
    "frozen_conv": (
        conv_case,
        # The last number: channels of the output.
        [(8, 320, 64, 64, 320), (8, 1280, 16, 16, 1280), (1, 256, 512, 512, 128)],
        [(2, 48, 16, 16, 48)],
    ),
    "guided_ddim": (ddim_case, [(4, 4, 64, 64), (16, 4, 128, 128)], [(32, 4, 16, 16)]),
    "class_disagreement": (disagreement_case, [(64, 1000), (256, 21843)], [(32, 10), (32, 1000)]),
}  # fmt: skip


# ---- measuring ----


def outputs_of(case, operation):
    out = operation(*case.inputs)
    return out if isinstance(out, tuple) else (out,)


def calls(case, operation):
    """A call of each pass."""
    ends = outputs_of(case, operation)
    slopes = [torch.randn_like(end) for end in ends]

    def backward():
        torch.autograd.grad(ends, case.inputs, slopes, retain_graph=True)

    def both():
        torch.autograd.grad(outputs_of(case, operation), case.inputs, slopes)

    return {"forward": lambda: outputs_of(case, operation), "backward": backward, "both": both}


def held(case, operation):
    """Bytes of storages that are saved for backward, without weights."""
    known = {t.untyped_storage().data_ptr() for t in case.weights}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs_of(case, operation)
    return sum(storage.nbytes() for storage in kept.values())


def least_bytes(case):
    """What each pass has to move: inputs and weights read, outputs written, and gradients alike."""
    ends = outputs_of(case, case.fused)
    given, made, weights = (
        sum(t.nbytes for t in part) for part in (case.inputs, ends, case.weights)
    )
    forward, backward = given + weights + made, made + weights + given
    if case.reads_inputs:
        backward += given
    return {"forward": forward, "backward": backward, "both": forward + backward}


def one_time(call, device, cache):
    """Milliseconds of a call."""
    if device == "cuda":
        cache.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)
    before = time.perf_counter()
    call()
    return (time.perf_counter() - before) * 1e3


def percentiles(both, device, seconds):
    """[20th, 50th, 80th] percentile of each call's milliseconds."""
    cache = torch.empty(CACHE_BYTES, dtype=torch.int8, device=device) if device == "cuda" else None
    for call in both:
        for _ in range(3):
            call()
    times = [[] for _ in both]
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(times[0]) < 5:
        for call, found in zip(both, times, strict=True):
            found.append(one_time(call, device, cache))
    at = torch.tensor([0.2, 0.5, 0.8])
    return [torch.tensor(found).quantile(at).tolist() for found in times]


def row(name, case, shape, where, seconds):
    """All that is measured of an operation at a shape."""
    found = {"operation": name, "shape": list(shape)}
    found["dtype"] = str(where.dtype).removeprefix("torch.")
    found["held_mb"] = [round(held(case, f) / 1e6, 3) for f in (case.fused, case.plain)]
    least = least_bytes(case)
    fused, plain = (calls(case, operation) for operation in (case.fused, case.plain))
    for which in PASSES:
        times = percentiles([fused[which], plain[which]], where.device, seconds / len(PASSES))
        found[which] = {
            "fused_ms": [round(t, 4) for t in times[0]],
            "plain_ms": [round(t, 4) for t in times[1]],
            "ratio": round(times[1][1] / times[0][1], 2),
            "gb_s": round(least[which] / times[0][1] / 1e6, 1),
            "least_mb": round(least[which] / 1e6, 2),
        }
    return found


def main():
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    usual = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=["cuda", "cpu"], default=usual)
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each shape")
    parser.add_argument("--operations", nargs="+", choices=OPERATIONS, default=list(OPERATIONS))
    arguments = parser.parse_args()
    device = arguments.device
    where = Where(device, torch.bfloat16 if device == "cuda" else torch.float32)
    machine = (
        torch.cuda.get_device_name()
        if device == "cuda"
        else f"a CPU, {torch.get_num_threads()} threads (no GPU: PyTorch paths, not Triton)"
    )
    print(f"Measured on {machine}")
    print(f"{'':18} {'':22} " + " ".join(f"{which:>17}" for which in PASSES) + "   held MB")
    rows = []
    for name in arguments.operations:
        case_of, on_gpu, on_cpu = OPERATIONS[name]
        for shape in on_gpu if device == "cuda" else on_cpu:
            found = row(name, case_of(where, shape), shape, where, arguments.seconds)
            rows.append(found)
            each = " ".join(
                f"{found[p]['ratio']:5.2f}x {found[p]['gb_s']:5.0f} GB/s" for p in PASSES
            )
            held_mb = "{} / {}".format(*found["held_mb"])
            print(f"{name:18} {shape!s:22} {each}   {held_mb}", flush=True)
    print(json.dumps({"device": device, "where": machine, "rows": rows}))


if __name__ == "__main__":
    sys.exit(main())
