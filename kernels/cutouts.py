"""Random views for a classifier as one operation: crops, pooled to its input size, with noise.

An output pixel is the mean over a box of the image, centred where the pixel lies in the crop, as
wide as the pixel but no narrower than one pixel of the image:

    width = max(side / size, 1)      out_i = sum_p |box_i and [p, p + 1]| image_p / width

along each axis. Where a crop is larger than the output this is pooling by area, where it is smaller
bilinear interpolation; beyond its border an image goes on as the border is.

The noise is a function of (key of the problem, view, pixel) alone: random bits by Philox4x64-10
(Salmon et al. 2011, as numpy has it), 16 for each value, which choose one of 65,536 quantiles of
the normal distribution. So every device and every batch gives the same noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
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

BLOCK = 256
# Numbers that PyTorch's path holds between both axes: half a MiB, of which a cache takes a few.
CACHED = 2**17

# ---- Triton ----


@jit
def _noise(key, element, table_ptr, mask):  # type: ignore[no-untyped-def]
    # Philox4x64-10 at the counter of each element: a block is four words, a word four values.
    counter_0 = (element // 16 + 1).to(tl.uint64)
    counter_1 = tl.zeros_like(counter_0)
    counter_2 = tl.zeros_like(counter_0)
    counter_3 = tl.zeros_like(counter_0)
    first = counter_1 + 0xD2E7470EE14C6C93
    second = counter_1 + 0xCA5A826395121157
    key_0 = counter_1 + key.to(tl.uint64)
    key_1 = tl.zeros_like(counter_0)
    for _ in tl.static_range(10):
        high_0, low_0 = tl.umulhi(first, counter_0), first * counter_0
        high_2, low_2 = tl.umulhi(second, counter_2), second * counter_2
        counter_0 = high_2 ^ counter_1 ^ key_0
        counter_1 = low_2
        counter_2 = high_0 ^ counter_3 ^ key_1
        counter_3 = low_0
        key_0 += 0x9E3779B97F4A7C15
        key_1 += 0xBB67AE8584CAA73B
    lane = (element // 4) % 4
    word = tl.where(
        lane < 2,
        tl.where(lane == 0, counter_0, counter_1),
        tl.where(lane == 2, counter_2, counter_3),
    )
    choice = (word >> ((element % 4) * 16).to(tl.uint64)) & 0xFFFF
    return tl.load(table_ptr + choice.to(tl.int32), mask=mask, other=0.0)


@jit
def _forward_kernel(  # type: ignore[no-untyped-def]
    images_ptr, boxes_ptr, keys_ptr, table_ptr, out_ptr, noise, problems, channels,
    height, width, size, NOISY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    crop = tl.program_id(1)  # of V * b
    channel = tl.program_id(2)
    problem = crop % problems
    within = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = within < size * size
    y_step = tl.load(boxes_ptr + crop * 4 + 2) / size
    x_step = tl.load(boxes_ptr + crop * 4 + 3) / size
    y_wide, x_wide = tl.maximum(y_step, 1.0), tl.maximum(x_step, 1.0)
    y_low = tl.load(boxes_ptr + crop * 4) + (within // size + 0.5) * y_step - y_wide / 2
    x_low = tl.load(boxes_ptr + crop * 4 + 1) + (within % size + 0.5) * x_step - x_wide / 2
    y_first, x_first = tl.floor(y_low), tl.floor(x_low)
    plane = images_ptr + (problem * channels + channel).to(tl.int64) * height * width
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for dy in range(0, tl.ceil(y_wide).to(tl.int32) + 1):
        y = y_first + dy
        tall = tl.maximum(tl.minimum(y_low + y_wide, y + 1) - tl.maximum(y_low, y), 0.0)
        row = tl.minimum(tl.maximum(y, 0.0), height - 1.0).to(tl.int32) * width
        for dx in range(0, tl.ceil(x_wide).to(tl.int32) + 1):
            x = x_first + dx
            across = tl.maximum(tl.minimum(x_low + x_wide, x + 1) - tl.maximum(x_low, x), 0.0)
            column = tl.minimum(tl.maximum(x, 0.0), width - 1.0).to(tl.int32)
            pixels = tl.load(plane + row + column, mask=mask, other=0.0).to(tl.float32)
            total += tall * across * pixels
    total = total / (y_wide * x_wide)
    if NOISY:
        element = ((crop // problems) * channels + channel).to(tl.int64) * size * size + within
        total += noise * _noise(tl.load(keys_ptr + problem), element, table_ptr, mask)
    at = (crop * channels + channel).to(tl.int64) * size * size + within
    tl.store(out_ptr + at, total.to(out_ptr.dtype.element_ty), mask=mask)


@jit
def _backward_kernel(  # type: ignore[no-untyped-def]
    grad_ptr, boxes_ptr, grad_images_ptr, views, problems, channels, height, width, size,
    BLOCK: tl.constexpr,
):  # fmt: skip
    # Each pixel of the image gathers from the outputs whose boxes it lies in: no atomics, so the
    # sum is the same every time.
    problem = tl.program_id(1)
    channel = tl.program_id(2)
    within = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = within < height * width
    y, x = within // width, within % width
    # The border's pixels stand for all beyond it.
    y_from = tl.where(y == 0, -1e30, y.to(tl.float32))
    y_to = tl.where(y == height - 1, 1e30, y + 1.0)
    x_from = tl.where(x == 0, -1e30, x.to(tl.float32))
    x_to = tl.where(x == width - 1, 1e30, x + 1.0)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for view in range(0, views):
        crop = view * problems + problem
        top, left = tl.load(boxes_ptr + crop * 4), tl.load(boxes_ptr + crop * 4 + 1)
        y_step = tl.load(boxes_ptr + crop * 4 + 2) / size
        x_step = tl.load(boxes_ptr + crop * 4 + 3) / size
        y_wide, x_wide = tl.maximum(y_step, 1.0), tl.maximum(x_step, 1.0)
        # The outputs whose boxes end behind the pixel's start, and those that follow as far as
        # boxes may start before its end.
        i_first = tl.floor((y - y_wide / 2 - top) / y_step - 0.5) + 1
        j_first = tl.floor((x - x_wide / 2 - left) / x_step - 0.5) + 1
        plane = grad_ptr + (crop * channels + channel).to(tl.int64) * size * size
        part = tl.zeros([BLOCK], dtype=tl.float32)
        for di in range(0, tl.ceil((1 + y_wide) / y_step).to(tl.int32)):
            i = i_first + di
            y_low = top + (i + 0.5) * y_step - y_wide / 2
            tall = tl.maximum(tl.minimum(y_low + y_wide, y_to) - tl.maximum(y_low, y_from), 0.0)
            row = i.to(tl.int32) * size
            inside = mask & (i >= 0) & (i < size)
            for dj in range(0, tl.ceil((1 + x_wide) / x_step).to(tl.int32)):
                j = j_first + dj
                x_low = left + (j + 0.5) * x_step - x_wide / 2
                across = tl.minimum(x_low + x_wide, x_to) - tl.maximum(x_low, x_from)
                there = inside & (j >= 0) & (j < size)
                grad = tl.load(plane + row + j.to(tl.int32), mask=there, other=0.0)
                part += tall * tl.maximum(across, 0.0) * grad.to(tl.float32)
        total += part / (y_wide * x_wide)
    at = (problem * channels + channel).to(tl.int64) * height * width + within
    tl.store(grad_images_ptr + at, total.to(grad_images_ptr.dtype.element_ty), mask=mask)


def triton_forward(
    images: torch.Tensor, boxes: torch.Tensor, keys: torch.Tensor, size: int, noise: float
) -> torch.Tensor:
    """The views [V, b, C, size, size], by one kernel."""
    views, problems = boxes.shape[:2]
    channels, height, width = images.shape[1:]
    out = images.new_empty(views, problems, channels, size, size)
    if out.numel():
        with on_device(images):
            _forward_kernel[(triton.cdiv(size * size, BLOCK), views * problems, channels)](
                images.contiguous(), boxes.float().contiguous(), keys.contiguous(),
                _quantiles(images.device), out, noise, problems, channels, height, width, size,
                NOISY=noise > 0, BLOCK=BLOCK,
            )  # fmt: skip
    return out


def triton_backward(
    grad: torch.Tensor, boxes: torch.Tensor, height: int, width: int
) -> torch.Tensor:
    """The gradient [b, C, H, W] by images, by one kernel."""
    views, problems, channels, size, _ = grad.shape
    grad_images = grad.new_empty(problems, channels, height, width)
    if grad_images.numel():
        with on_device(grad):
            _backward_kernel[(triton.cdiv(height * width, BLOCK), problems, channels)](
                grad.contiguous(), boxes.float().contiguous(), grad_images, views, problems,
                channels, height, width, size, BLOCK=BLOCK,
            )  # fmt: skip
    return grad_images


# ---- PyTorch ----


def _taps(
    start: torch.Tensor, side: torch.Tensor, size: int, pixels: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Along one axis, of N crops: the pixels that outputs are of, and their shares, [N, size, K].

    start, side: [N], in pixels.
    """
    step = side.double()[:, None] / size
    wide = step.clamp_min(1)
    places = torch.arange(size, device=start.device, dtype=torch.float64) + 0.5
    low = start.double()[:, None] + places * step - wide / 2
    # No box is wider than the image is by the output: how many taps is known from shapes alone.
    count = -(-max(pixels, size) // size) + 1
    at = low.floor()[..., None] + torch.arange(count, device=start.device)
    high = torch.minimum((low + wide)[..., None], at + 1)
    shares = (high - torch.maximum(low[..., None], at)).clamp_min(0) / wide[..., None]
    return at.clamp(0, pixels - 1).long(), shares


def _pool(table: torch.Tensor, rows: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """[N, L]: sums of rows [N, K] of a table [R, L], weighted by shares [N, K]."""
    return F.embedding_bag(rows, table, per_sample_weights=shares, mode="sum")


def _spread(
    values: torch.Tensor, rows: torch.Tensor, shares: torch.Tensor, count: int
) -> torch.Tensor:
    """[count, L]: `_pool`'s transpose by gathering, of values [N, L] to rows of the table."""
    order = rows.flatten().argsort(stable=True)
    ends = torch.bincount(rows.flatten(), minlength=count).cumsum(0)
    offsets = torch.cat([ends.new_zeros(1), ends[:-1]])
    return F.embedding_bag(
        order // rows.shape[1], values, offsets, per_sample_weights=shares.flatten()[order],
        mode="sum",
    )  # fmt: skip


def _both_axes(
    boxes: torch.Tensor, channels: int, height: int, width: int, size: int, dtype: torch.dtype
) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Rows and shares of `_pool` along x, then along y.

    Along x the table has rows (problem, x), along y rows (view, problem, channel, y).
    """
    views, problems = boxes.shape[:2]
    top, left, tall, wide = boxes.reshape(-1, 4).unbind(1)
    columns, across = _taps(left, wide, size, width)  # [V b, size, K]
    owner = torch.arange(views * problems, device=boxes.device) % problems
    columns = (columns + (owner * width).view(-1, 1, 1)).flatten(0, 1)
    lines, along = _taps(top, tall, size, height)
    planes = torch.arange(views * problems * channels, device=boxes.device) * height
    lines = (lines[:, None] + planes.view(-1, channels, 1, 1)).flatten(0, 2)
    along = along[:, None].expand(-1, channels, -1, -1).flatten(0, 2)
    return (columns, across.flatten(0, 1).to(dtype)), (lines, along.to(dtype))


def torch_forward(
    images: torch.Tensor, boxes: torch.Tensor, keys: torch.Tensor, size: int, noise: float
) -> torch.Tensor:
    """As triton_forward, one axis after the other; of each output only its few pixels are read."""
    views, problems = boxes.shape[:2]
    channels, height, width = images.shape[1:]
    if views * problems == 0:
        return images.new_empty(views, problems, channels, size, size)
    dtype = accumulation_dtype(images)
    by_x, by_y = _both_axes(boxes, channels, height, width, size, dtype)
    table = images.to(dtype).permute(0, 3, 1, 2).contiguous()
    table = table.view(problems * width, channels * height)
    out = table.new_empty(views * problems, channels, size, size)
    for start, part, lines, columns in _parts(out, channels, height, size):
        pooled = _pool(table, by_x[0][columns], by_x[1][columns])
        pooled = pooled.view(-1, size, channels * height).transpose(1, 2).contiguous()
        places = by_y[0][lines] - start * channels * height
        part.view(-1, size).copy_(_pool(pooled.view(-1, size), places, by_y[1][lines]))
    out = out.view(views, problems, -1)
    if noise > 0:
        for row, view, values in _noise_of(keys, views, out.shape[-1]):
            out[view, row].add_(values.to(out), alpha=noise)
    return out.view(views, problems, channels, size, size).to(images.dtype)


def torch_backward(
    grad: torch.Tensor, boxes: torch.Tensor, height: int, width: int
) -> torch.Tensor:
    """As triton_backward."""
    views, problems, channels, size, _ = grad.shape
    if grad.numel() == 0:
        return grad.new_zeros(problems, channels, height, width)
    dtype = accumulation_dtype(grad)
    by_x, by_y = _both_axes(boxes, channels, height, width, size, dtype)
    crops = grad.to(dtype).reshape(views * problems, channels * size, size)
    spread = crops.new_empty(views * problems, size, channels * height)
    for start, part, lines, _ in _parts(spread, channels, height, size):
        values = crops[start : start + len(part)].reshape(-1, size)
        places = by_y[0][lines] - start * channels * height
        rows = len(part) * channels * height
        along_y = _spread(values, places, by_y[1][lines], rows)
        part.copy_(along_y.view(len(part), -1, size).transpose(1, 2))
    table = _spread(spread.view(-1, channels * height), *by_x, problems * width)
    out = table.view(problems, width, channels, height).permute(0, 2, 3, 1)
    return out.to(grad.dtype).contiguous()


def _parts(
    crops: torch.Tensor, channels: int, height: int, size: int
) -> Iterator[tuple[int, torch.Tensor, slice, slice]]:
    """Few crops [V b, ...] at a time, so that what lies between both axes stays in a CPU's cache.

    The first crop of a part, the part, and its rows of `_both_axes` along y and along x.
    """
    count = max(1, CACHED // (size * channels * height))
    for start in range(0, len(crops), count):
        part = crops[start : start + count]
        lines, columns = (
            slice(start * rows, (start + len(part)) * rows) for rows in (channels * size, size)
        )
        yield start, part, lines, columns


@cache
def _quantiles(device: torch.device) -> torch.Tensor:
    """[65536] of the normal distribution, at the middles of equal parts."""
    middles = (torch.arange(65536, dtype=torch.float64) + 0.5) / 65536
    quantiles: torch.Tensor = torch.special.ndtri(middles)
    return quantiles.float().to(device)


def normal(keys: torch.Tensor, views: int, channels: int, size: int) -> torch.Tensor:
    """Normal noise [V, b, C, size, size] of the problems' keys [b], on the CPU."""
    out = torch.empty(views, len(keys), channels * size * size)
    for row, view, values in _noise_of(keys, views, out.shape[-1]):
        out[view, row] = values
    return out.view(views, len(keys), channels, size, size)


def _noise_of(
    keys: torch.Tensor, views: int, numbers: int
) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Each problem and view with its noise [numbers], on the CPU: overwritten by the next."""
    table = _quantiles(torch.device("cpu")).numpy()
    values = np.empty(numbers, np.float32)
    philox = np.random.Philox(0)
    state = philox.state
    for row, key in enumerate(keys.tolist()):
        state["state"] = {
            "counter": np.zeros(4, np.uint64),
            "key": np.array([key, 0], np.int64).view(np.uint64),
        }
        state["buffer_pos"] = 4  # what was drawn before is spent
        philox.state = state
        bits = philox.random_raw(-(-views * numbers // 4)).view(np.uint16)
        for view, chosen in enumerate(bits[: views * numbers].reshape(views, -1)):
            table.take(chosen, out=values, mode="clip")
            yield row, view, torch.from_numpy(values)


def reference(
    images: torch.Tensor,
    boxes: torch.Tensor,
    keys: torch.Tensor,
    *,
    size: int,
    noise: float = 0.0,
) -> torch.Tensor:
    """`cutouts` in plain autograd PyTorch: the boxes' overlaps as matrices, to compare with."""
    dtype = accumulation_dtype(images)

    def overlaps(start: torch.Tensor, side: torch.Tensor, pixels: int) -> torch.Tensor:
        step = side.double()[..., None] / size
        wide = step.clamp_min(1)
        places = torch.arange(size, device=images.device, dtype=torch.float64) + 0.5
        low = (start.double()[..., None] + places * step - wide / 2)[..., None]
        edges = torch.arange(pixels + 1, device=images.device, dtype=torch.float64)
        edges[0], edges[-1] = -torch.inf, torch.inf
        high = low + wide[..., None]
        inside = torch.minimum(high, edges[1:]) - torch.maximum(low, edges[:-1])
        shares: torch.Tensor = inside.clamp_min(0) / wide[..., None]
        return shares.to(dtype)

    top, left, tall, wide = boxes.unbind(-1)
    rows = overlaps(top, tall, images.shape[2])  # [V, b, size, H]
    columns = overlaps(left, wide, images.shape[3])  # [V, b, size, W]
    views = torch.einsum("vbih,bchw,vbjw->vbcij", rows, images.to(dtype), columns)
    if noise > 0:
        values = normal(keys, len(boxes), images.shape[1], size)
        views = views + noise * values.to(views)
    return views.to(images.dtype)


# ---- the operation ----


class Cutouts(torch.autograd.Function):
    """Autograd's view of the operation; call `cutouts`."""

    @staticmethod
    def forward(
        ctx: Any,
        images: torch.Tensor,
        boxes: torch.Tensor,
        keys: torch.Tensor,
        size: int,
        noise: float,
        with_triton: bool,
    ) -> torch.Tensor:
        """Views [V, b, C, size, size]."""
        ctx.with_triton, ctx.sides = with_triton, images.shape[2:]
        ctx.save_for_backward(boxes)
        run = triton_forward if with_triton else torch_forward
        return run(images, boxes, keys, size, noise)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The gradient of the images."""
        (boxes,) = ctx.saved_tensors
        run = triton_backward if ctx.with_triton else torch_backward
        return run(grad, boxes, *ctx.sides), None, None, None, None, None


def cutouts(
    images: torch.Tensor,
    boxes: torch.Tensor,
    keys: torch.Tensor,
    *,
    size: int,
    noise: float = 0.0,
) -> torch.Tensor:
    """V crops of each image, pooled to `size` pixels a side, with noise; differentiable once.

    images: [b, C, H, W]; float16, bfloat16 or float32 are calculated in float32, float64 in
    float64.
    boxes: [V, b, 4], floating point, on the images' device: top, left, height and width of each
    crop in the images' pixels, inside of the image, sides above 0 (what lies outside reads as the
    border does; it is not checked, since that would make the host wait for a GPU).
    keys: [b] int64, on the images' device: what the noise of a problem's views is a function of.
    noise: its standard deviation, 0 or above.
    Returns [V, b, C, size, size] in the dtype of images. Raises ValueError or TypeError for other
    shapes, ranges and dtypes.
    """
    check_floating(images=images, boxes=boxes)
    if images.ndim != 4:
        raise ValueError(f"images have to be [b, C, H, W], not {tuple(images.shape)}")
    count = len(images)
    if boxes.ndim != 3 or boxes.shape[1:] != (count, 4):
        raise ValueError(f"boxes have to be [V, {count}, 4], not {tuple(boxes.shape)}")
    if keys.shape != (count,) or keys.device != images.device:
        raise ValueError(
            f"keys have to be [{count}] on {images.device}, not {tuple(keys.shape)} on "
            f"{keys.device}"
        )
    if keys.dtype != torch.int64:
        raise TypeError(f"keys have to be int64, not {keys.dtype}")
    if size < 1 or noise < 0:
        raise ValueError(f"size has to be 1 or more and noise 0 or more, not {size} and {noise:g}")
    with_triton = use_triton(images)
    views: torch.Tensor = Cutouts.apply(  # type: ignore[no-untyped-call]
        images, boxes, keys, size, float(noise), with_triton
    )
    return views
