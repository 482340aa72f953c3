"""Correlation of two feature maps (Dosovitskiy et al. 2015, "FlowNet", section 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.ops._native import launch, take_kernels


def correlation(a: Tensor, b: Tensor, max_displacement: int = 20, stride2: int = 2, impl: str = "auto") -> Tensor:
    """Similarity of each pixel of a to the pixels of b around it: the mean over the channels of their products.

    out[:, i * n + j, y, x] = mean over c of a[:, c, y, x] * b[:, c, y + stride2 * (i - r), x + stride2 * (j - r)], zero outside b,
    with r = max_displacement // stride2 and n = 2 * r + 1 (so the vertical displacement is the outer one).

    a, b: [B, C, H, W], of one shape, type and device. max_displacement: pixels, 0 or more. stride2: pixels between displacements.
    impl: 'cuda' (the kernel), 'ref' (plain PyTorch) or 'auto' (the kernel where it can run); the result is the same.
    Returns: [B, n * n, H, W] of the same type, computed in float32 (float64 for float64); channels-last when a is, with the kernel.
    Raises: ValueError for bad arguments; RuntimeError when impl='cuda' cannot run.
    """
    if a.dim() != 4 or a.shape != b.shape or a.dtype != b.dtype or a.device != b.device:
        raise ValueError(
            "correlation takes two maps [B, C, H, W] of one shape, type and device, "
            f"not {list(a.shape)} {a.dtype} {a.device} and {list(b.shape)} {b.dtype} {b.device}"
        )
    if max_displacement < 0 or stride2 < 1:
        raise ValueError(f"correlation takes max_displacement >= 0 and stride2 >= 1, not {max_displacement} and {stride2}")
    radius = max_displacement // stride2
    if take_kernels("correlation", impl, a):
        return _forward(a, b, radius, stride2)
    return _reference(a, b, radius, stride2)


def _reference(a: Tensor, b: Tensor, radius: int, step: int) -> Tensor:
    _, c, h, w = a.shape
    n, pad = 2 * radius + 1, radius * step
    wide = torch.promote_types(a.dtype, torch.float32)
    rows_a = a.to(wide).permute(0, 2, 3, 1)  # [B, H, W, C]
    rows_b = F.pad(b.to(wide), (pad, pad, pad, pad)).permute(0, 2, 1, 3)  # [B, H + 2 pad, C, W + 2 pad]
    x = torch.arange(w, device=a.device)[:, None] + step * torch.arange(n, device=a.device)  # column of b, padded, by (x, j)
    x = x.expand(a.shape[0], h, w, n)
    # one product of rows with rows for each vertical displacement: all pairs of columns, of which the near ones are kept
    out = [(rows_a @ rows_b[:, i * step : i * step + h]).gather(3, x) for i in range(n)]
    return (torch.cat(out, dim=3) / c).permute(0, 3, 1, 2).to(a.dtype).contiguous()


@torch.library.custom_op("head2head::correlation", mutates_args=(), device_types="cuda")
def _forward(a: Tensor, b: Tensor, radius: int, step: int) -> Tensor:
    out = _empty_result(a, radius)
    if out.numel():
        a, b = _channels_last(a), _channels_last(b)
        last = torch.channels_last  # the kernel's layout
        rows = out if out.is_contiguous(memory_format=last) else torch.empty_like(out, memory_format=last)
        size, c, h, w = a.shape
        launch("correlation_forward", a, a, b, rows, size, h, w, c, radius, step)
        if rows is not out:
            out.copy_(rows)
    return out


@_forward.register_fake
def _(a: Tensor, b: Tensor, radius: int, step: int) -> Tensor:
    return _empty_result(a, radius)


@torch.library.custom_op("head2head::correlation_backward", mutates_args=(), device_types="cuda")
def _backward(grad: Tensor, a: Tensor, b: Tensor, radius: int, step: int) -> tuple[Tensor, Tensor]:
    size, c, h, w = a.shape
    grads = tuple(torch.empty_like(t, memory_format=torch.channels_last) for t in (a, b))
    if a.numel():
        grad, a, b = (_channels_last(t) for t in (grad, a, b))
        for of_b, other in ((0, b), (1, a)):
            launch("correlation_backward", a, of_b, grad, other, grads[of_b], size, h, w, c, radius, step)
    return grads


@_backward.register_fake
def _(grad: Tensor, a: Tensor, b: Tensor, radius: int, step: int) -> tuple[Tensor, Tensor]:
    return tuple(torch.empty_like(t, memory_format=torch.channels_last) for t in (a, b))


def _save(ctx, inputs: tuple, output: Tensor) -> None:
    a, b, ctx.radius, ctx.step = inputs
    ctx.save_for_backward(a, b)


def _differentiate(ctx, grad: Tensor) -> tuple:
    return *_backward(grad, *ctx.saved_tensors, ctx.radius, ctx.step), None, None


_forward.register_autograd(_differentiate, setup_context=_save)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _empty_result(a: Tensor, radius: int) -> Tensor:
    size, _, h, w = a.shape
    n = 2 * radius + 1
    last = not a.is_contiguous() and a.is_contiguous(memory_format=torch.channels_last)
    return torch.empty(
        (size, n * n, h, w), dtype=a.dtype, device=a.device, memory_format=torch.channels_last if last else torch.contiguous_format
    )
