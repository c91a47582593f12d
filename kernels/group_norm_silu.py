"""Group normalisation with a frozen affine map, and SiLU after it, as one operation.

For a group of D channels and S places, with mean m and variance v over its D S numbers (Wu & He
2018; SiLU: Hendrycks & Gimpel 2016):

    x^ = (x - m) r      r = 1 / sqrt(v + eps)      z = w x^ + b      y = z sigmoid(z)

and with g = w dL/dz, backward is dL/dx = r (g - mean(g) - x^ mean(g x^)), the means over the group.

The affine map gets no gradient, so x and the two statistics of each group are all that is kept, and
z is made again. PyTorch's two operations keep x, z and the statistics, and the convolution behind
them y. Channels-last tensors stay channels-last, for which PyTorch has no group norm on GPUs: it
copies to contiguous and back.

A small group is one program's, which reads it more than once (but for the first time from the
cache). A large one is cut into tiles of places and channels: each leaves its channels' mean and
squared deviation, or in backward their two sums, which one program a group puts together (Chan et
al. 1983); then each tile is written. There are no atomics: the same result every time.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn import functional as F

from whylens.kernels.backend import (
    accumulation_dtype,
    check_floating,
    jit,
    on_device,
    tl,
    triton,
    use_triton,
)

# Numbers of a group up to which one program makes all of it: many where there are groups enough to
# fill a GPU with programs, else few.
SMALL, SMALL_ALONE, ENOUGH = 1 << 16, 1 << 13, 64
# Numbers of one tile, and the warps that hold it: 16 numbers a thread.
TILE, WARPS = 4096, 8
# Partial results that are put together at once.
PARTIALS = 1024


# ---- Triton ----
#
# x is [N, C, S] with any two strides for channels and places; the samples' stride is C S.


@jit
def _small_forward_kernel(  # type: ignore[no-untyped-def]
    x_ptr, weight_ptr, bias_ptr, out_ptr, mean_ptr, rstd_ptr,
    places, depth, groups, stride_c, stride_s, eps,
    SILU: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    group = row % groups
    base = (row // groups).to(tl.int64) * groups * depth * places + group * depth * stride_c
    channel = tl.arange(0, BLOCK_C)[:, None]
    inside = channel < depth
    sums = tl.zeros([BLOCK_C, BLOCK_S], dtype=tl.float32)
    for start in range(0, places, BLOCK_S):
        place = start + tl.arange(0, BLOCK_S)[None, :]
        at = base + channel * stride_c + place * stride_s
        sums += tl.load(x_ptr + at, mask=inside & (place < places), other=0.0).to(tl.float32)
    count = depth * places
    mean = tl.sum(tl.sum(sums, axis=1), axis=0) / count
    squares = tl.zeros([BLOCK_C, BLOCK_S], dtype=tl.float32)
    for start in range(0, places, BLOCK_S):
        place = start + tl.arange(0, BLOCK_S)[None, :]
        mask = inside & (place < places)
        at = base + channel * stride_c + place * stride_s
        centred = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32) - mean
        squares += tl.where(mask, centred * centred, 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(tl.sum(squares, axis=1), axis=0) / count + eps)
    tl.store(mean_ptr + row, mean)
    tl.store(rstd_ptr + row, rstd)
    affine = group * depth + channel
    weight = tl.load(weight_ptr + affine, mask=inside, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + affine, mask=inside, other=0.0).to(tl.float32)
    for start in range(0, places, BLOCK_S):
        place = start + tl.arange(0, BLOCK_S)[None, :]
        mask = inside & (place < places)
        at = base + channel * stride_c + place * stride_s
        x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
        y = (x - mean) * rstd * weight + bias
        if SILU:
            y = y * tl.sigmoid(y)
        tl.store(out_ptr + at, y.to(out_ptr.dtype.element_ty), mask=mask)


@jit
def _slope(  # type: ignore[no-untyped-def]
    grad, x, mean, rstd, weight, bias, SILU: tl.constexpr
):  # fmt: skip
    """(g, x^): the gradient by x^, and x^."""
    normal = (x - mean) * rstd
    if SILU:
        z = normal * weight + bias
        gate = tl.sigmoid(z)
        grad = grad * gate * (1.0 + z * (1.0 - gate))
    return grad * weight, normal


@jit
def _small_backward_kernel(  # type: ignore[no-untyped-def]
    grad_ptr, x_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr, out_ptr,
    places, depth, groups, stride_c, stride_s,
    SILU: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    group = row % groups
    base = (row // groups).to(tl.int64) * groups * depth * places + group * depth * stride_c
    channel = tl.arange(0, BLOCK_C)[:, None]
    inside = channel < depth
    affine = group * depth + channel
    weight = tl.load(weight_ptr + affine, mask=inside, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + affine, mask=inside, other=0.0).to(tl.float32)
    mean = tl.load(mean_ptr + row)
    rstd = tl.load(rstd_ptr + row)
    by_slope = tl.zeros([BLOCK_C, BLOCK_S], dtype=tl.float32)
    by_normal = tl.zeros([BLOCK_C, BLOCK_S], dtype=tl.float32)
    for start in range(0, places, BLOCK_S):
        place = start + tl.arange(0, BLOCK_S)[None, :]
        mask = inside & (place < places)
        at = base + channel * stride_c + place * stride_s
        grad = tl.load(grad_ptr + at, mask=mask, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
        slope, normal = _slope(grad, x, mean, rstd, weight, bias, SILU)
        by_slope += slope
        by_normal += slope * normal
    count = depth * places
    slopes = tl.sum(tl.sum(by_slope, axis=1), axis=0) / count
    normals = tl.sum(tl.sum(by_normal, axis=1), axis=0) / count
    for start in range(0, places, BLOCK_S):
        place = start + tl.arange(0, BLOCK_S)[None, :]
        mask = inside & (place < places)
        at = base + channel * stride_c + place * stride_s
        grad = tl.load(grad_ptr + at, mask=mask, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
        slope, normal = _slope(grad, x, mean, rstd, weight, bias, SILU)
        out = rstd * (slope - slopes - normal * normals)
        tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=mask)


@jit
def _tile_statistics_kernel(  # type: ignore[no-untyped-def]
    x_ptr, mean_ptr, square_ptr, places, channels, stride_c, stride_s,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Each channel's mean and squared deviation from it, over a tile's places."""
    start = tl.program_id(0) * BLOCK_S
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    place = start + tl.arange(0, BLOCK_S)
    sample = tl.program_id(2)
    mask = (channel[:, None] < channels) & (place[None, :] < places)
    base = sample.to(tl.int64) * channels * places
    at = base + channel[:, None].to(tl.int64) * stride_c + place[None, :].to(tl.int64) * stride_s
    x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
    mean = tl.sum(x, axis=1) / tl.minimum(places - start, BLOCK_S)
    centred = tl.where(mask, x - mean[:, None], 0.0)
    to = (sample * tl.num_programs(0) + tl.program_id(0)).to(tl.int64) * channels + channel
    tl.store(mean_ptr + to, mean, mask=channel < channels)
    tl.store(square_ptr + to, tl.sum(centred * centred, axis=1), mask=channel < channels)


@jit
def _merge_statistics_kernel(  # type: ignore[no-untyped-def]
    tile_mean_ptr, tile_square_ptr, mean_ptr, rstd_ptr,
    places, depth, groups, tiles, tile_places, eps, BLOCK: tl.constexpr,
):  # fmt: skip
    """A group's mean and 1 / deviation of its tiles' (Chan et al. 1983)."""
    row = tl.program_id(0)
    base = (row // groups).to(tl.int64) * tiles * groups * depth + (row % groups) * depth
    total = tiles * depth
    sums = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, total, BLOCK):
        part = start + tl.arange(0, BLOCK)
        at = base + (part // depth) * groups * depth + part % depth
        size = tl.minimum(places - (part // depth) * tile_places, tile_places)
        sums += tl.load(tile_mean_ptr + at, mask=part < total, other=0.0) * size
    mean = tl.sum(sums, axis=0) / (places * depth)
    squares = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, total, BLOCK):
        part = start + tl.arange(0, BLOCK)
        at = base + (part // depth) * groups * depth + part % depth
        size = tl.minimum(places - (part // depth) * tile_places, tile_places)
        apart = tl.load(tile_mean_ptr + at, mask=part < total, other=0.0) - mean
        square = tl.load(tile_square_ptr + at, mask=part < total, other=0.0)
        squares += tl.where(part < total, square + apart * apart * size, 0.0)
    tl.store(mean_ptr + row, mean)
    tl.store(rstd_ptr + row, 1.0 / tl.sqrt(tl.sum(squares, axis=0) / (places * depth) + eps))


@jit
def _tile_forward_kernel(  # type: ignore[no-untyped-def]
    x_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr, out_ptr,
    places, channels, depth, stride_c, stride_s,
    SILU: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    channel = (tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C))[:, None]
    place = (tl.program_id(0) * BLOCK_S + tl.arange(0, BLOCK_S))[None, :]
    sample = tl.program_id(2)
    known = channel < channels
    mask = known & (place < places)
    row = sample * (channels // depth) + channel // depth
    mean = tl.load(mean_ptr + row, mask=known, other=0.0)
    rstd = tl.load(rstd_ptr + row, mask=known, other=0.0)
    weight = tl.load(weight_ptr + channel, mask=known, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + channel, mask=known, other=0.0).to(tl.float32)
    base = sample.to(tl.int64) * channels * places
    at = base + channel.to(tl.int64) * stride_c + place.to(tl.int64) * stride_s
    x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
    y = (x - mean) * rstd * weight + bias
    if SILU:
        y = y * tl.sigmoid(y)
    tl.store(out_ptr + at, y.to(out_ptr.dtype.element_ty), mask=mask)


@jit
def _tile_backward_sums_kernel(  # type: ignore[no-untyped-def]
    grad_ptr, x_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr, slope_ptr, normal_ptr,
    places, channels, depth, stride_c, stride_s,
    SILU: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Each channel's sums of g and of g x^ over a tile's places."""
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    place = (tl.program_id(0) * BLOCK_S + tl.arange(0, BLOCK_S))[None, :]
    sample = tl.program_id(2)
    known = channel < channels
    mask = known[:, None] & (place < places)
    row = sample * (channels // depth) + channel // depth
    mean = tl.load(mean_ptr + row, mask=known, other=0.0)[:, None]
    rstd = tl.load(rstd_ptr + row, mask=known, other=0.0)[:, None]
    weight = tl.load(weight_ptr + channel, mask=known, other=0.0).to(tl.float32)[:, None]
    bias = tl.load(bias_ptr + channel, mask=known, other=0.0).to(tl.float32)[:, None]
    base = sample.to(tl.int64) * channels * places
    at = base + channel[:, None].to(tl.int64) * stride_c + place.to(tl.int64) * stride_s
    grad = tl.load(grad_ptr + at, mask=mask, other=0.0).to(tl.float32)
    x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
    slope, normal = _slope(grad, x, mean, rstd, weight, bias, SILU)
    to = (sample * tl.num_programs(0) + tl.program_id(0)).to(tl.int64) * channels + channel
    tl.store(slope_ptr + to, tl.sum(slope, axis=1), mask=known)
    tl.store(normal_ptr + to, tl.sum(slope * normal, axis=1), mask=known)


@jit
def _merge_sums_kernel(  # type: ignore[no-untyped-def]
    tile_slope_ptr, tile_normal_ptr, slope_ptr, normal_ptr,
    places, depth, groups, tiles, BLOCK: tl.constexpr,
):  # fmt: skip
    """A group's means of g and of g x^."""
    row = tl.program_id(0)
    base = (row // groups).to(tl.int64) * tiles * groups * depth + (row % groups) * depth
    total = tiles * depth
    slopes = tl.zeros([BLOCK], dtype=tl.float32)
    normals = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, total, BLOCK):
        part = start + tl.arange(0, BLOCK)
        at = base + (part // depth) * groups * depth + part % depth
        slopes += tl.load(tile_slope_ptr + at, mask=part < total, other=0.0)
        normals += tl.load(tile_normal_ptr + at, mask=part < total, other=0.0)
    tl.store(slope_ptr + row, tl.sum(slopes, axis=0) / (places * depth))
    tl.store(normal_ptr + row, tl.sum(normals, axis=0) / (places * depth))


@jit
def _tile_backward_kernel(  # type: ignore[no-untyped-def]
    grad_ptr, x_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr, slope_ptr, normal_ptr, out_ptr,
    places, channels, depth, stride_c, stride_s,
    SILU: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    channel = (tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C))[:, None]
    place = (tl.program_id(0) * BLOCK_S + tl.arange(0, BLOCK_S))[None, :]
    sample = tl.program_id(2)
    known = channel < channels
    mask = known & (place < places)
    row = sample * (channels // depth) + channel // depth
    mean = tl.load(mean_ptr + row, mask=known, other=0.0)
    rstd = tl.load(rstd_ptr + row, mask=known, other=0.0)
    slopes = tl.load(slope_ptr + row, mask=known, other=0.0)
    normals = tl.load(normal_ptr + row, mask=known, other=0.0)
    weight = tl.load(weight_ptr + channel, mask=known, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + channel, mask=known, other=0.0).to(tl.float32)
    base = sample.to(tl.int64) * channels * places
    at = base + channel.to(tl.int64) * stride_c + place.to(tl.int64) * stride_s
    grad = tl.load(grad_ptr + at, mask=mask, other=0.0).to(tl.float32)
    x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
    slope, normal = _slope(grad, x, mean, rstd, weight, bias, SILU)
    out = rstd * (slope - slopes - normal * normals)
    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=mask)


def _is_small(groups: int, numbers: int) -> bool:
    """Whether each of so many groups of so many numbers is one program's."""
    return numbers <= (SMALL if groups >= ENOUGH else SMALL_ALONE)


def _places(x: torch.Tensor) -> int:
    return math.prod(x.shape[2:])


def _strides(x: torch.Tensor) -> tuple[int, int]:
    """Of channels and places, for a tensor that `_dense` returned."""
    return (_places(x), 1) if x.is_contiguous() else (1, x.shape[1])


def _dense(x: torch.Tensor, like: torch.Tensor | None = None) -> torch.Tensor:
    """x [N, C, ...] contiguous or channels-last, as it is or, if it is neither, contiguous.

    With `like`, in that one's layout.
    """
    last = x.movedim(1, -1).is_contiguous()
    if like is None:
        return x if last or x.is_contiguous() else x.contiguous()
    if like.is_contiguous():
        return x.contiguous()
    return x if last else x.movedim(1, -1).contiguous().movedim(-1, 1)


def _blocks(extent_c: int, places: int, stride_c: int) -> dict[str, int]:
    """A tile's channels and places: long along the axis that lies together in memory."""
    if stride_c == 1:
        block_c = min(triton.next_power_of_2(extent_c), 64)
    else:
        block_c = min(triton.next_power_of_2(extent_c), 4)
    block_s = min(triton.next_power_of_2(places), TILE // block_c)
    return {"BLOCK_C": block_c, "BLOCK_S": block_s, "num_warps": WARPS}


def _small_blocks(depth: int, places: int) -> dict[str, int]:
    block_c = triton.next_power_of_2(depth)
    return {
        "BLOCK_C": block_c,
        "BLOCK_S": min(triton.next_power_of_2(places), max(TILE // block_c, 1)),
        "num_warps": WARPS,
    }


def triton_forward(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float, silu: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(y, mean [N, G], 1 / deviation [N, G]); x [N, C, ...] is contiguous or channels-last."""
    samples, channels = x.shape[:2]
    out = torch.empty_like(x)
    mean, rstd = (x.new_empty((samples, groups), dtype=torch.float32) for _ in range(2))
    if x.numel() == 0:
        return out, mean, rstd
    places, depth = _places(x), channels // groups
    strides = _strides(x)
    with on_device(x):
        if _is_small(samples * groups, depth * places):
            _small_forward_kernel[(samples * groups,)](
                x, weight, bias, out, mean, rstd, places, depth, groups, *strides, eps,
                SILU=silu, **_small_blocks(depth, places),
            )  # fmt: skip
            return out, mean, rstd
        blocks = _blocks(channels, places, strides[0])
        tiles = triton.cdiv(places, blocks["BLOCK_S"])
        grid = (tiles, triton.cdiv(channels, blocks["BLOCK_C"]), samples)
        part_mean, part_square = (
            x.new_empty((samples, tiles, channels), dtype=torch.float32) for _ in range(2)
        )
        _tile_statistics_kernel[grid](
            x, part_mean, part_square, places, channels, *strides, **blocks
        )
        _merge_statistics_kernel[(samples * groups,)](
            part_mean, part_square, mean, rstd,
            places, depth, groups, tiles, blocks["BLOCK_S"], eps, BLOCK=PARTIALS,
        )  # fmt: skip
        _tile_forward_kernel[grid](
            x, mean, rstd, weight, bias, out, places, channels, depth, *strides,
            SILU=silu, **blocks,
        )  # fmt: skip
    return out, mean, rstd


def triton_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    groups: int,
    silu: bool,
) -> torch.Tensor:
    """The gradient by x, in x's layout and dtype."""
    out = torch.empty_like(x)
    if x.numel() == 0:
        return out
    grad = _dense(grad, like=x)
    samples, channels = x.shape[:2]
    places, depth = _places(x), channels // groups
    strides = _strides(x)
    with on_device(x):
        if _is_small(samples * groups, depth * places):
            _small_backward_kernel[(samples * groups,)](
                grad, x, mean, rstd, weight, bias, out, places, depth, groups, *strides,
                SILU=silu, **_small_blocks(depth, places),
            )  # fmt: skip
            return out
        blocks = _blocks(channels, places, strides[0])
        tiles = triton.cdiv(places, blocks["BLOCK_S"])
        grid = (tiles, triton.cdiv(channels, blocks["BLOCK_C"]), samples)
        part_slope, part_normal = (
            x.new_empty((samples, tiles, channels), dtype=torch.float32) for _ in range(2)
        )
        slopes, normals = torch.empty_like(mean), torch.empty_like(mean)
        of_tile = (x, mean, rstd, weight, bias)
        _tile_backward_sums_kernel[grid](
            grad, *of_tile, part_slope, part_normal, places, channels, depth, *strides,
            SILU=silu, **blocks,
        )  # fmt: skip
        _merge_sums_kernel[(samples * groups,)](
            part_slope, part_normal, slopes, normals, places, depth, groups, tiles, BLOCK=PARTIALS
        )
        _tile_backward_kernel[grid](
            grad, *of_tile, slopes, normals, out, places, channels, depth, *strides,
            SILU=silu, **blocks,
        )  # fmt: skip
    return out


# ---- PyTorch ----


def torch_forward(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float, silu: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As triton_forward, by PyTorch's own group norm and a SiLU in place."""
    samples, channels = x.shape[:2]
    out, mean, rstd = torch.native_group_norm(
        x, weight.to(x.dtype), bias.to(x.dtype), samples, channels, _places(x), groups, eps
    )
    if silu:
        F.silu(out, inplace=True)
    dtype = accumulation_dtype(x)
    return _dense(out, like=x), mean.to(dtype), rstd.to(dtype)


def torch_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    groups: int,
    silu: bool,
) -> torch.Tensor:
    """As triton_backward; z is made again by one multiplication and addition."""
    samples, channels = x.shape[:2]
    grad = _dense(grad, like=x)
    if silu:
        shape = (samples, channels, *(1,) * (x.ndim - 2))
        of_channels = (t.repeat_interleave(channels // groups, 1) for t in (mean, rstd))
        mean_of, rstd_of = of_channels
        scale = rstd_of * weight
        shift = bias - mean_of * scale
        z = torch.addcmul(shift.to(x.dtype).view(shape), x, scale.to(x.dtype).view(shape))
        grad = torch.ops.aten.silu_backward(grad, z)
    found: torch.Tensor = torch.ops.aten.native_group_norm_backward(
        grad, x, mean.to(x.dtype), rstd.to(x.dtype), weight.to(x.dtype),
        samples, channels, _places(x), groups, [True, False, False],
    )[0]  # fmt: skip
    return _dense(found, like=x)


def reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    *,
    groups: int,
    eps: float = 1e-5,
    silu: bool = True,
) -> torch.Tensor:
    """The textbook form of `group_norm_silu` in plain autograd PyTorch, to compare with."""
    dtype = accumulation_dtype(x)
    grouped = x.to(dtype).reshape(len(x), groups, x.shape[1] // groups * _places(x))
    variance, mean = torch.var_mean(grouped, dim=2, correction=0, keepdim=True)
    normal = ((grouped - mean) / (variance + eps).sqrt()).view(x.shape)
    shape = (-1, *(1,) * (x.ndim - 2))
    z = normal * weight.to(dtype).view(shape) + bias.to(dtype).view(shape)
    out: torch.Tensor = z * z.sigmoid() if silu else z
    return out.to(x.dtype)


# ---- the operation ----


def run_forward(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float, silu: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Forward by the path that fits the tensors."""
    run = triton_forward if use_triton(x, weight, bias) else torch_forward
    return run(x, weight, bias, groups, eps, silu)


def run_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    groups: int,
    silu: bool,
) -> torch.Tensor:
    """Backward by the path that fits the tensors."""
    run = triton_backward if use_triton(x, weight, bias) else torch_backward
    return run(grad, x, mean, rstd, weight, bias, groups, silu)


# The same two as operators of PyTorch, which torch.compile takes as they are. Without it they are
# called directly: an operator costs tens of microseconds a call.
_forward_operator = torch.library.custom_op(
    "whylens::group_norm_silu", run_forward, mutates_args=()
)
_backward_operator = torch.library.custom_op(
    "whylens::group_norm_silu_backward", run_backward, mutates_args=()
)


@_forward_operator.register_fake
def _(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float, silu: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    dtype = accumulation_dtype(x)
    mean, rstd = (x.new_empty((x.shape[0], groups), dtype=dtype) for _ in range(2))
    return torch.empty_like(x), mean, rstd


@_backward_operator.register_fake
def _(
    grad: torch.Tensor,
    x: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    groups: int,
    silu: bool,
) -> torch.Tensor:
    return torch.empty_like(x)


class GroupNormSilu(torch.autograd.Function):
    """Autograd's view of the operation; call `group_norm_silu`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        groups: int,
        eps: float,
        silu: bool,
    ) -> torch.Tensor:
        """y."""
        run = _forward_operator if torch.compiler.is_compiling() else run_forward
        out, mean, rstd = run(x, weight, bias, groups, eps, silu)
        ctx.save_for_backward(x, mean, rstd, weight, bias)
        ctx.groups, ctx.silu = groups, silu
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The gradient of x alone."""
        run = _backward_operator if torch.compiler.is_compiling() else run_backward
        x, mean, rstd, weight, bias = ctx.saved_tensors
        by_x = run(grad, x, mean, rstd, weight, bias, ctx.groups, ctx.silu)
        return by_x, None, None, None, None, None


def group_norm_silu(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    *,
    groups: int,
    eps: float = 1e-5,
    silu: bool = True,
) -> torch.Tensor:
    """Group norm with a frozen affine map and, where asked for, SiLU; differentiable once in x.

    x: [N, C, ...], float16, bfloat16 or float32 (calculated in float32) or float64; contiguous and
    channels-last tensors keep their layout, others become contiguous.
    weight, bias: [C], of any floating dtype; they get no gradient.
    groups: divides C.
    Returns [N, C, ...] in x's dtype. The equations are in the module's docstring. Raises ValueError
    or TypeError for other shapes and dtypes, and for weights that are to be trained.
    """
    check_floating(x=x, weight=weight, bias=bias)
    if x.ndim < 2 or groups < 1 or x.shape[1] % groups:
        raise ValueError(f"x has to be [N, C, ...] with C a multiple of {groups}: {tuple(x.shape)}")
    if weight.shape != x.shape[1:2] or bias.shape != x.shape[1:2]:
        raise ValueError(
            f"weight and bias have to be [{x.shape[1]}], one for each channel, not "
            f"{tuple(weight.shape)} and {tuple(bias.shape)}"
        )
    if weight.requires_grad or bias.requires_grad:
        raise ValueError("weight and bias get no gradient here: call requires_grad_(False)")
    result: torch.Tensor = GroupNormSilu.apply(  # type: ignore[no-untyped-call]
        _dense(x), weight, bias, groups, eps, silu
    )
    return result
