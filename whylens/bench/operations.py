"""How fast the operations of whylens.kernels are beside the plain PyTorch that they replace.

Each operation at the shapes of layers of Stable Diffusion 1.4 (four problems, so eight samples of
the U-Net, and one image of the decoder) and SDXL (one problem), in bfloat16; on a CPU at small
shapes in float32. Forward keeps what backward needs; backward alone; both. Times are taken in
turns, on a GPU with its cache emptied before each. Of a row, by pass (forward, backward, both):

fused_ms, plain_ms   20th, 50th and 80th percentile of the milliseconds of a call
ratio                the median of the plain one by that of the fused: above 1, the fused is faster
gb_s                 the least bytes that the pass could move (each tensor read or written once) by
                     the fused one's median
least_mb             those bytes
held_mb              bytes that are held for backward, without weights: [fused, plain]
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from whylens.kernels import (
    class_disagreement,
    cutouts,
    disagreement,
    frozen_conv,
    geglu,
    group_norm_silu,
    guided_ddim,
    guided_ddim_step,
)

GUIDED: dict[str, Any] = {"guidance_scale": 3.0, "alpha_bar": 0.35, "alpha_bar_prev": 0.62}
PASSES = ("forward", "backward", "both")
# Larger than any GPU's cache.
CACHE_BYTES = 256 * 2**20


Operation = Callable[..., Any]
Shape = Sequence[int]


class Case(NamedTuple):
    """An operation at a shape: what is differentiated, and both ways to do it.

    `reads_inputs`: backward cannot do without them, since the operation is not linear.
    """

    inputs: list[Tensor]
    fused: Operation
    plain: Operation
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


def ddim_case(where: Where, shape: Shape) -> Case:
    """Of `OPERATIONS`."""
    inputs = [where.drawn(*shape).requires_grad_() for _ in range(3)]
    plain = guided_ddim.reference
    return Case(
        inputs,
        lambda *z: guided_ddim_step(*z, **GUIDED),
        lambda *z: plain(*z, **GUIDED, prediction="epsilon"),
        reads_inputs=False,
    )


def disagreement_case(where: Where, shape: Shape) -> Case:
    """Of `OPERATIONS`."""
    inputs = [where.drawn(*shape).requires_grad_() for _ in range(2)]
    targets = [torch.randint(shape[1], shape[:1], device=where.device) for _ in range(2)]
    return Case(
        inputs,
        lambda *logits: disagreement(*logits, *targets),
        lambda *logits: class_disagreement.reference(*logits, *targets),
    )


def group_norm_case(where: Where, shape: Shape) -> Case:
    """Of `OPERATIONS`."""
    weight, bias = where.drawn(shape[1]), where.drawn(shape[1])
    return Case(
        [where.drawn(*shape).requires_grad_()],
        lambda x: group_norm_silu(x, weight, bias, groups=32),
        lambda x: F.silu(F.group_norm(x, 32, weight, bias)),
        (weight, bias),
    )


def conv_case(where: Where, shape: Shape) -> Case:
    """Of `OPERATIONS`."""
    *size, out = shape
    weight, bias = where.drawn(out, size[1], 3, 3), where.drawn(out)
    return Case(
        [where.drawn(*size).requires_grad_()],
        lambda x: frozen_conv(x, weight, bias, padding=(1, 1)),
        lambda x: F.conv2d(x, weight, bias, padding=1),
        (weight, bias),
        reads_inputs=False,
    )


def geglu_case(where: Where, shape: Shape) -> Case:
    """Of `OPERATIONS`."""
    width = shape[-1]
    weight, bias = where.drawn(8 * width, width) / width**0.5, where.drawn(8 * width)

    def plain(x: Tensor) -> Tensor:
        hidden, gate = F.linear(x, weight, bias).chunk(2, dim=-1)
        return hidden * F.gelu(gate)

    return Case(
        [where.drawn(*shape).requires_grad_()],
        lambda x: geglu(x, weight, bias),
        plain,
        (weight, bias),
    )


def cutouts_case(where: Where, shape: Shape) -> Case:
    """Of `OPERATIONS`: beside crops that are pooled one by one, as the papers' code does it."""
    *size, views, side = shape
    images = where.drawn(*size).requires_grad_()
    count, whole = size[0], size[2]
    sides = (0.44 + 0.56 * torch.rand(views, count, 1)) * whole
    corners = (whole - sides) * torch.rand(views, count, 2)
    boxes = torch.cat([corners, sides, sides], -1)
    keys = torch.arange(count, device=where.device)
    places = [
        (row, top, left, tall)
        for view in boxes.long().tolist()
        for row, (top, left, tall, _) in enumerate(view)
    ]
    there = boxes.to(where.device)

    def plain(images: Tensor) -> Tensor:
        crops = [
            F.adaptive_avg_pool2d(images[row, :, top : top + tall, left : left + tall], side)
            for row, top, left, tall in places
        ]
        seen = torch.stack(crops)
        return seen + 0.005 * torch.randn_like(seen)

    def fused(images: Tensor) -> Tensor:
        return cutouts(images, there, keys, size=side, noise=0.005)

    return Case([images], fused, plain, reads_inputs=False)


# An operation's case, and its shapes on a GPU and on a CPU.
OPERATIONS: dict[str, tuple[Callable[[Where, Shape], Case], list[Shape], list[Shape]]] = {
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
    "cutouts": (
        cutouts_case,
        # The last numbers: views of each image, and their side.
        [(4, 3, 512, 512, 16, 224), (1, 3, 1024, 1024, 16, 224)],
        [(8, 3, 64, 64, 4, 64), (2, 3, 256, 256, 16, 112), (1, 3, 512, 512, 16, 224)],
    ),
    "guided_ddim": (ddim_case, [(4, 4, 64, 64), (16, 4, 128, 128)], [(32, 4, 16, 16)]),
    "class_disagreement": (disagreement_case, [(64, 1000), (256, 21843)], [(32, 10), (32, 1000)]),
}  # fmt: skip


# ---- measuring ----


def outputs_of(case: Case, operation: Operation) -> tuple[Tensor, ...]:
    """What an operation makes of a case's inputs."""
    out = operation(*case.inputs)
    return out if isinstance(out, tuple) else (out,)


def calls(case: Case, operation: Operation) -> dict[str, Callable[[], Any]]:
    """A call of each pass."""
    ends = outputs_of(case, operation)
    slopes = [torch.randn_like(end) for end in ends]

    def backward() -> None:
        torch.autograd.grad(ends, case.inputs, slopes, retain_graph=True)

    def both() -> None:
        torch.autograd.grad(outputs_of(case, operation), case.inputs, slopes)

    return {"forward": lambda: outputs_of(case, operation), "backward": backward, "both": both}


def held(case: Case, operation: Operation) -> int:
    """Bytes of storages that are saved for backward, without weights."""
    known = {t.untyped_storage().data_ptr() for t in case.weights}
    kept: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs_of(case, operation)
    return sum(storage.nbytes() for storage in kept.values())


def least_bytes(case: Case) -> dict[str, int]:
    """What each pass has to move: inputs and weights read, outputs written, and gradients alike."""
    ends = outputs_of(case, case.fused)
    given, made, weights = (
        sum(t.nbytes for t in part) for part in (case.inputs, ends, case.weights)
    )
    forward, backward = given + weights + made, made + weights + given
    if case.reads_inputs:
        backward += given
    return {"forward": forward, "backward": backward, "both": forward + backward}


def one_time(call: Callable[[], Any], cache: Tensor | None) -> float:
    """Milliseconds of a call."""
    if cache is not None:
        cache.zero_()
        event: Any = torch.cuda.Event
        start, end = (event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end))
    before = time.perf_counter()
    call()
    return (time.perf_counter() - before) * 1e3


def percentiles(
    both: Sequence[Callable[[], Any]], device: str, seconds: float
) -> list[list[float]]:
    """[20th, 50th, 80th] percentile of each call's milliseconds."""
    cache = torch.empty(CACHE_BYTES, dtype=torch.int8, device=device) if device == "cuda" else None
    for call in both:
        for _ in range(3):
            call()
    times: list[list[float]] = [[] for _ in both]
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(times[0]) < 5:
        for call, found in zip(both, times, strict=True):
            found.append(one_time(call, cache))
    at = torch.tensor([0.2, 0.5, 0.8])
    return [torch.tensor(found).quantile(at).tolist() for found in times]


def row(name: str, case: Case, shape: Shape, where: Where, seconds: float) -> dict[str, Any]:
    """All that is measured of an operation at a shape."""
    found: dict[str, Any] = {"operation": name, "shape": list(shape)}
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


def rows(
    device: str, *, seconds: float = 1.0, operations: Sequence[str] = tuple(OPERATIONS)
) -> Iterator[dict[str, Any]]:
    """Every operation at every shape, `seconds` each: on "cuda" in bfloat16, else in float32."""
    where = Where(device, torch.bfloat16 if device == "cuda" else torch.float32)
    for name in operations:
        case_of, on_gpu, on_cpu = OPERATIONS[name]
        for shape in on_gpu if device == "cuda" else on_cpu:
            yield row(name, case_of(where, shape), shape, where, seconds)
