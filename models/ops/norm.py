"""Instance normalisation fused with what follows it: activation, residual, reflection padding.

Between two convolutions the networks do four small things to every pixel. One after the other they read and write the feature maps
many times over, in a memory layout that the convolutions do not share; on a GPU that took more time than the convolutions. Here each
direction reads the maps twice and writes them once, in the convolutions' own layout (channels last).
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from util.cli import warn

EPS = 1e-5


def norm_act_pad(
    x: Tensor, *, slope: float = 1.0, residual: Tensor | None = None, residual_pad: int = 0, pad: int = 0, impl: str = "auto"
) -> Tensor:
    """reflect(act(norm(x)) + residual).

    norm: instance normalisation without affine parameters (biased variance, eps 1e-5; Ulyanov et al. 2016). act: x where it is
    positive, else slope * x (1: none, 0: ReLU). residual: added after that, without the `residual_pad` pixels at its border.
    reflect: reflection padding by `pad` pixels.
    x: [B, C, H, W], any floating type; statistics are float32. residual: [B, C, H + 2 residual_pad, W + 2 residual_pad].
    impl: 'triton' (fused kernels), 'ref' (plain PyTorch), 'auto' (the kernels where they can run); the result is the same.
    Returns: [B, C, H + 2 pad, W + 2 pad] of x's type; channels last from the kernels.
    Raises: RuntimeError when impl='triton' cannot run; ValueError for an unknown impl.
    """
    if _takes_kernels(impl, x, pad):
        return _NormActPad.apply(x, residual, slope, residual_pad, pad, True)
    y = _ContiguousGradient.apply(F.instance_norm(x, eps=EPS))
    if slope != 1:
        y = F.leaky_relu(y, slope) if slope else F.relu(y)
    if residual is not None:
        y = y + (residual[..., residual_pad:-residual_pad, residual_pad:-residual_pad] if residual_pad else residual)
    return F.pad(y, (pad,) * 4, mode="reflect") if pad else y


def reflection_pad(x: Tensor, pad: int, impl: str = "auto") -> Tensor:
    """Reflection padding of x [B, C, H, W] by `pad` pixels on every side; `impl` as in `norm_act_pad`."""
    if _takes_kernels(impl, x, pad):
        return _NormActPad.apply(x, None, 1.0, 0, pad, False)
    return F.pad(x, (pad,) * 4, mode="reflect")


def _takes_kernels(impl: str, x: Tensor, pad: int) -> bool:
    if impl not in ("auto", "triton", "ref"):
        raise ValueError(f"impl is 'auto', 'triton' or 'ref', not {impl!r}")
    if impl == "ref" or (impl == "auto" and not x.is_cuda):
        return False
    fault = None
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        fault = f"they take float32, float16 and bfloat16, not {x.dtype}"
    elif min(x.shape[-2:]) < 2 * pad + 2:  # a pixel could be reflected at both ends of an axis; they know one
        fault = f"images of {x.shape[-1]}x{x.shape[-2]} pixels are too small for a padding of {pad}"
    else:
        fault = _kernels_fault(x.device, impl)
    if fault and impl == "triton":
        raise RuntimeError(f"the Triton kernels of norm_act_pad cannot run: {fault}")
    return fault is None


@cache
def _kernels_fault(device: torch.device, impl: str) -> str | None:
    """Why the kernels do not run on that device (None: they do), found out by trying once; impl 'auto' says so."""
    try:
        _NormActPad.apply(torch.zeros(1, 4, 4, 4, device=device), None, 1.0, 0, 1, True)
    except Exception as e:  # Triton is not there, has no C compiler, or does not know the GPU: there are many ways
        fault = f"{type(e).__name__}: {str(e).strip().splitlines()[0] if str(e).strip() else ''}"[:200]
        if impl == "auto":
            warn(f"normalisation runs in plain PyTorch, which is slower, since Triton's kernels do not work here ({fault})")
        return fault
    return None


class _ContiguousGradient(torch.autograd.Function):
    """Hands its input on, and its gradient back in the plain layout: for a single image and a channels-last gradient, instance_norm's own
    gradient on the CPU is wrong (seen with PyTorch 2.15)."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return grad.contiguous()


class _NormActPad(torch.autograd.Function):
    """The kernels. Without `norm` it is the padding alone."""

    @staticmethod
    def forward(ctx, x, residual, slope, residual_pad, pad, norm):
        from models.ops import norm_kernels as kernels

        x = x.contiguous(memory_format=torch.channels_last)
        if residual is not None:
            residual = residual.to(x.dtype).contiguous(memory_format=torch.channels_last)
        statistics = kernels.statistics(x, EPS) if norm else None
        ctx.save_for_backward(x if norm else None, statistics)
        ctx.facts = tuple(x.shape), slope, residual_pad, pad, residual is not None
        return kernels.forward(x, statistics, residual, slope, residual_pad, pad)

    @staticmethod
    def backward(ctx, grad):
        from models.ops import norm_kernels as kernels

        x, statistics = ctx.saved_tensors
        shape, slope, residual_pad, pad, has_residual = ctx.facts
        grad = grad.contiguous(memory_format=torch.channels_last)
        of_x, of_residual = kernels.backward(grad, x, statistics, shape, slope, residual_pad if has_residual else None, pad)
        return of_x, of_residual, None, None, None, None
