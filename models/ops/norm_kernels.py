"""The Triton kernels of models.ops.norm. All tensors are channels last, so each is an array [B, H * W, C].

A program works on a block of channels of one image, tile by tile of pixels. Sums over an image are taken in two steps, in a fixed order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 4096  # elements of a tile
_PROGRAMS = 1024  # enough to keep a large GPU busy


def _blocks(channels: int) -> dict[str, int]:
    """Tile: channels and pixels."""
    wide = min(64, triton.next_power_of_2(channels))
    return {"BC": wide, "BP": max(16, _TILE // wide)}


def _parts(b: int, channels: int, pixels: int) -> tuple[int, int]:
    """Into how many parts an image's pixels are split for the sums, and the pixels of a part."""
    blocks = _blocks(channels)
    most = triton.cdiv(pixels, blocks["BP"])
    parts = min(most, max(1, _PROGRAMS // (b * triton.cdiv(channels, blocks["BC"]))))
    size = triton.cdiv(most, parts) * blocks["BP"]
    return triton.cdiv(pixels, size), size


def statistics(x: Tensor, eps: float) -> Tensor:
    """Mean and 1 / sqrt(variance + eps) of every channel of every image: float32 [2, B, C]."""
    b, c, h, w = x.shape
    blocks = _blocks(c)
    parts, size = _parts(b, c, h * w)
    partial = torch.empty((2, b, parts, c), dtype=torch.float32, device=x.device)
    result = torch.empty((2, b, c), dtype=torch.float32, device=x.device)
    grid = (parts, triton.cdiv(c, blocks["BC"]), b)
    _sums_forward[grid](x, partial, c, h * w, size, **blocks)
    _finish_statistics[grid[1:]](x, partial, result, c, h * w, parts, eps, BC=blocks["BC"])
    return result


def forward(x: Tensor, stats: Tensor | None, residual: Tensor | None, slope: float, residual_pad: int, pad: int) -> Tensor:
    b, c, h, w = x.shape
    blocks = _blocks(c)
    y = torch.empty((b, c, h + 2 * pad, w + 2 * pad), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    grid = (triton.cdiv((h + 2 * pad) * (w + 2 * pad), blocks["BP"]), triton.cdiv(c, blocks["BC"]), b)
    flags = {"NORM": stats is not None, "RESIDUAL": residual is not None}
    _forward[grid](x, stats, residual, y, c, h, w, slope, PAD=pad, RPAD=residual_pad, **flags, **blocks)
    return y


def backward(
    grad: Tensor, x: Tensor | None, stats: Tensor | None, shape: tuple[int, ...], slope: float, residual_pad: int | None, pad: int
) -> tuple[Tensor, Tensor | None]:
    """Gradients of x and of the residual; residual_pad None: there is none."""
    b, c, h, w = shape
    blocks = _blocks(c)
    layout = {"dtype": grad.dtype, "device": grad.device, "memory_format": torch.channels_last}
    of_x = torch.empty(shape, **layout)
    of_residual = None
    if residual_pad is not None:
        of_residual = torch.empty((b, c, h + 2 * residual_pad, w + 2 * residual_pad), **layout)
        if residual_pad:
            of_residual.zero_()
    sums = None
    if stats is not None:
        parts, size = _parts(b, c, h * w)
        partial = torch.empty((2, b, parts, c), dtype=torch.float32, device=grad.device)
        sums = torch.empty((2, b, c), dtype=torch.float32, device=grad.device)
        grid = (parts, triton.cdiv(c, blocks["BC"]), b)
        _sums_backward[grid](grad, x, stats, partial, c, h, w, size, slope, PAD=pad, **blocks)
        _finish_sums[grid[1:]](partial, sums, c, parts, BC=blocks["BC"])
    grid = (triton.cdiv(h * w, blocks["BP"]), triton.cdiv(c, blocks["BC"]), b)
    flags = {"NORM": stats is not None, "RESIDUAL": residual_pad is not None}
    _backward[grid](grad, x, stats, sums, of_x, of_residual, c, h, w, slope, PAD=pad, RPAD=residual_pad or 0, **flags, **blocks)
    return of_x, of_residual


@triton.jit
def _sums_forward(x, partial, C, P, size, BC: tl.constexpr, BP: tl.constexpr):
    """Sums and sums of squares of x less the image's first pixel (which keeps the variance from drowning in a large mean)."""
    part, image = tl.program_id(0), tl.program_id(2).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    x += image * P * C
    origin = tl.load(x + c, mask=c < C, other=0.0).to(tl.float32)
    total = tl.zeros([BC], tl.float32)
    squares = tl.zeros([BC], tl.float32)
    for first in range(part * size, min(part * size + size, P), BP):
        p = first + tl.arange(0, BP)
        inside = (p < P)[:, None] & (c < C)[None, :]
        v = tl.load(x + p[:, None] * C + c[None, :], mask=inside, other=0.0).to(tl.float32) - origin[None, :]
        v = tl.where(inside, v, 0.0)
        total += tl.sum(v, 0)
        squares += tl.sum(v * v, 0)
    parts, images = tl.num_programs(0), tl.num_programs(2)
    place = (image * parts + part) * C + c
    tl.store(partial + place, total, mask=c < C)
    tl.store(partial + images * parts * C + place, squares, mask=c < C)


@triton.jit
def _finish_statistics(x, partial, result, C, P, parts, eps, BC: tl.constexpr):
    image, images = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    total = tl.zeros([BC], tl.float32)
    squares = tl.zeros([BC], tl.float32)
    for part in range(parts):
        place = (image * parts + part) * C + c
        total += tl.load(partial + place, mask=c < C, other=0.0)
        squares += tl.load(partial + images * parts * C + place, mask=c < C, other=0.0)
    origin = tl.load(x + image * P * C + c, mask=c < C, other=0.0).to(tl.float32)
    mean = total / P
    variance = tl.maximum(squares / P - mean * mean, 0.0)
    tl.store(result + image * C + c, mean + origin, mask=c < C)
    tl.store(result + (images + image) * C + c, 1.0 / tl.sqrt(variance + eps), mask=c < C)


@triton.jit
def _forward(
    x,
    stats,
    residual,
    y,
    C,
    H,
    W,
    slope,
    PAD: tl.constexpr,
    RPAD: tl.constexpr,
    NORM: tl.constexpr,
    RESIDUAL: tl.constexpr,
    BC: tl.constexpr,
    BP: tl.constexpr,
):
    image, images = tl.program_id(2).to(tl.int64), tl.num_programs(2)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    p = tl.program_id(0) * BP + tl.arange(0, BP)
    wide = W + 2 * PAD
    inside = (p < (H + 2 * PAD) * wide)[:, None] & (c < C)[None, :]
    row, column = p // wide - PAD, p % wide - PAD
    if PAD > 0:  # reflect
        row = tl.where(row < 0, -row, tl.where(row >= H, 2 * (H - 1) - row, row))
        column = tl.where(column < 0, -column, tl.where(column >= W, 2 * (W - 1) - column, column))
    v = tl.load(x + image * H * W * C + (row * W + column)[:, None] * C + c[None, :], mask=inside, other=0.0)
    if NORM:
        mean = tl.load(stats + image * C + c, mask=c < C, other=0.0)
        scale = tl.load(stats + (images + image) * C + c, mask=c < C, other=0.0)
        n = (v.to(tl.float32) - mean[None, :]) * scale[None, :]
        n = tl.where(n > 0, n, n * slope)
        if RESIDUAL:
            wider = W + 2 * RPAD
            place = ((row + RPAD) * wider + column + RPAD)[:, None] * C + c[None, :]
            n += tl.load(residual + image * (H + 2 * RPAD) * wider * C + place, mask=inside, other=0.0).to(tl.float32)
        v = n.to(y.dtype.element_ty)
    tl.store(y + image * (H + 2 * PAD) * wide * C + p[:, None] * C + c[None, :], v, mask=inside)


@triton.jit
def _mirrored(i, N, PAD: tl.constexpr):
    """Where in the padded axis pixel i of N lies a second time, reflected; -1: nowhere."""
    return tl.where((i >= 1) & (i <= PAD), PAD - i, tl.where((i >= N - 1 - PAD) & (i <= N - 2), 2 * (N - 1) - i + PAD, -1))


@triton.jit
def _folded(grad, p, c, C, H, W, inside, PAD: tl.constexpr):
    """The gradient of the pixels p before the padding: the sum over all places where a pixel lies after it. float32 [BP, BC]."""
    row, column = p // W, p % W
    wide = W + 2 * PAD
    base = (row + PAD) * wide
    g = tl.load(grad + (base + column + PAD)[:, None] * C + c[None, :], mask=inside, other=0.0).to(tl.float32)
    if PAD > 0:
        row_2, column_2 = _mirrored(row, H, PAD), _mirrored(column, W, PAD)
        up, aside = (row_2 >= 0)[:, None] & inside, (column_2 >= 0)[:, None] & inside
        g += tl.load(grad + (base + column_2)[:, None] * C + c[None, :], mask=aside, other=0.0).to(tl.float32)
        g += tl.load(grad + (row_2 * wide + column + PAD)[:, None] * C + c[None, :], mask=up, other=0.0).to(tl.float32)
        g += tl.load(grad + (row_2 * wide + column_2)[:, None] * C + c[None, :], mask=up & aside, other=0.0).to(tl.float32)
    return g


@triton.jit
def _sums_backward(grad, x, stats, partial, C, H, W, size, slope, PAD: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr):
    """Sums of the normalised value's gradient, and of the gradient times that value."""
    part, image, images = tl.program_id(0), tl.program_id(2).to(tl.int64), tl.num_programs(2)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    P = H * W
    x += image * P * C
    grad += image * (H + 2 * PAD) * (W + 2 * PAD) * C
    mean = tl.load(stats + image * C + c, mask=c < C, other=0.0)
    scale = tl.load(stats + (images + image) * C + c, mask=c < C, other=0.0)
    total = tl.zeros([BC], tl.float32)
    product = tl.zeros([BC], tl.float32)
    for first in range(part * size, min(part * size + size, P), BP):
        p = first + tl.arange(0, BP)
        inside = (p < P)[:, None] & (c < C)[None, :]
        n = (tl.load(x + p[:, None] * C + c[None, :], mask=inside, other=0.0).to(tl.float32) - mean[None, :]) * scale[None, :]
        g = _folded(grad, p, c, C, H, W, inside, PAD)
        g = tl.where(n > 0, g, g * slope)
        total += tl.sum(g, 0)
        product += tl.sum(g * n, 0)
    parts = tl.num_programs(0)
    place = (image * parts + part) * C + c
    tl.store(partial + place, total, mask=c < C)
    tl.store(partial + images * parts * C + place, product, mask=c < C)


@triton.jit
def _finish_sums(partial, sums, C, parts, BC: tl.constexpr):
    image, images = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    total = tl.zeros([BC], tl.float32)
    product = tl.zeros([BC], tl.float32)
    for part in range(parts):
        place = (image * parts + part) * C + c
        total += tl.load(partial + place, mask=c < C, other=0.0)
        product += tl.load(partial + images * parts * C + place, mask=c < C, other=0.0)
    tl.store(sums + image * C + c, total, mask=c < C)
    tl.store(sums + (images + image) * C + c, product, mask=c < C)


@triton.jit
def _backward(
    grad,
    x,
    stats,
    sums,
    of_x,
    of_residual,
    C,
    H,
    W,
    slope,
    PAD: tl.constexpr,
    RPAD: tl.constexpr,
    NORM: tl.constexpr,
    RESIDUAL: tl.constexpr,
    BC: tl.constexpr,
    BP: tl.constexpr,
):
    image, images = tl.program_id(2).to(tl.int64), tl.num_programs(2)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    p = tl.program_id(0) * BP + tl.arange(0, BP)
    P = H * W
    inside = (p < P)[:, None] & (c < C)[None, :]
    place = image * P * C + p[:, None] * C + c[None, :]
    g = _folded(grad + image * (H + 2 * PAD) * (W + 2 * PAD) * C, p, c, C, H, W, inside, PAD)
    if RESIDUAL:
        wider = W + 2 * RPAD
        where = ((p // W + RPAD) * wider + p % W + RPAD)[:, None] * C + c[None, :]
        tl.store(of_residual + image * (H + 2 * RPAD) * wider * C + where, g.to(of_residual.dtype.element_ty), mask=inside)
    if NORM:
        mean = tl.load(stats + image * C + c, mask=c < C, other=0.0)
        scale = tl.load(stats + (images + image) * C + c, mask=c < C, other=0.0)
        total = tl.load(sums + image * C + c, mask=c < C, other=0.0) / P
        product = tl.load(sums + (images + image) * C + c, mask=c < C, other=0.0) / P
        n = (tl.load(x + place, mask=inside, other=0.0).to(tl.float32) - mean[None, :]) * scale[None, :]
        g = tl.where(n > 0, g, g * slope)
        g = scale[None, :] * (g - total[None, :] - n * product[None, :])
    tl.store(of_x + place, g.to(of_x.dtype.element_ty), mask=inside)
