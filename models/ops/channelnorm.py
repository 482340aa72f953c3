"""L2 norm over the channels."""

from __future__ import annotations

import torch
from torch import Tensor

from models.ops._native import launch, take_kernels


def channelnorm(x: Tensor, impl: str = "auto") -> Tensor:
    """out(x, y) = square root of the sum over the channels of x squared; its gradient where that is zero is zero.

    x: [B, C, H, W]. impl: 'cuda' (the kernel), 'ref' (plain PyTorch) or 'auto' (the kernel where it can run); the result is the same.
    Returns: [B, 1, H, W] of the same type, computed in float32 (float64 for float64).
    Raises: ValueError for bad arguments; RuntimeError when impl='cuda' cannot run.
    """
    if x.dim() != 4:
        raise ValueError(f"channelnorm takes a map [B, C, H, W], not {list(x.shape)}")
    if take_kernels("channelnorm", impl, x):
        return _forward(x)
    return torch.linalg.vector_norm(x.to(torch.promote_types(x.dtype, torch.float32)), dim=1, keepdim=True).to(x.dtype)


@torch.library.custom_op("head2head::channelnorm", mutates_args=(), device_types="cuda")
def _forward(x: Tensor) -> Tensor:
    out = _empty_result(x)
    if out.numel():
        launch("channelnorm_forward", x, x, out, *x.shape, *x.stride())
    return out


@_forward.register_fake
def _empty_result(x: Tensor) -> Tensor:
    return torch.empty((x.shape[0], 1, *x.shape[2:]), dtype=x.dtype, device=x.device)


@torch.library.custom_op("head2head::channelnorm_backward", mutates_args=(), device_types="cuda")
def _backward(grad: Tensor, x: Tensor) -> Tensor:
    grad_x = _empty_gradient(grad, x)
    if grad_x.numel():
        launch("channelnorm_backward", x, grad.contiguous(), x, grad_x, *x.shape, *x.stride())
    return grad_x


@_backward.register_fake
def _empty_gradient(grad: Tensor, x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _save(ctx, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx, grad: Tensor) -> Tensor:
    return _backward(grad, *ctx.saved_tensors)


_forward.register_autograd(_differentiate, setup_context=_save)
