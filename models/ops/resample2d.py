"""Bilinear backward warp by a flow in pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from models.ops._native import launch, take_kernels


def resample2d(image: Tensor, flow_px: Tensor, impl: str = "auto") -> Tensor:
    """out(x, y) = image(x + flow_x(x, y), y + flow_y(x, y)), coordinates clamped to the border.

    image: [B, C, H, W]. flow_px: [B, 2, H, W], x first, in pixels, of any floating type; not a number gives not a number.
    impl: 'cuda' (the kernel), 'ref' (plain PyTorch) or 'auto' (the kernel where it can run); the result is the same. The kernel's
        gradient of the image adds in no fixed order.
    Returns: [B, C, H, W] of the image's type, computed in float32 (float64 when either is float64).
    Raises: ValueError for bad arguments; RuntimeError when impl='cuda' cannot run.
    """
    if image.dim() != 4 or flow_px.shape != (image.shape[0], 2, *image.shape[2:]) or image.device != flow_px.device:
        raise ValueError(
            "resample2d takes an image [B, C, H, W] and a flow [B, 2, H, W] on one device, "
            f"not {list(image.shape)} on {image.device} and {list(flow_px.shape)} on {flow_px.device}"
        )
    if take_kernels("resample2d", impl, flow_px if flow_px.dtype == torch.float64 else image):
        return _forward(image, flow_px.float())
    return _reference(image, flow_px)


def _reference(image: Tensor, flow_px: Tensor) -> Tensor:
    b, c, h, w = image.shape
    wide = torch.promote_types(torch.promote_types(image.dtype, flow_px.dtype), torch.float32)
    flow = flow_px.to(wide)
    x = _clamp(torch.arange(w, device=image.device) + flow[:, 0], w - 1)  # [B, H, W]
    y = _clamp(torch.arange(h, device=image.device)[:, None] + flow[:, 1], h - 1)
    # the clamps of the whole numbers are for flows that are not numbers, and for the neighbours of the last column and row
    x0, y0 = x.detach().floor().long().clamp(0, w - 1), y.detach().floor().long().clamp(0, h - 1)
    x1, y1 = (x0 + 1).clamp(max=w - 1), (y0 + 1).clamp(max=h - 1)
    ax, ay = (x - x.detach().floor())[:, None], (y - y.detach().floor())[:, None]
    pixels = image.to(wide).flatten(2)

    def corner(row: Tensor, column: Tensor) -> Tensor:
        return pixels.gather(2, (row * w + column).view(b, 1, h * w).expand(b, c, h * w)).view(b, c, h, w)

    out = (1 - ay) * ((1 - ax) * corner(y0, x0) + ax * corner(y0, x1)) + ay * ((1 - ax) * corner(y1, x0) + ax * corner(y1, x1))
    return out.to(image.dtype)


def _clamp(x: Tensor, last: int) -> Tensor:
    """Clamp to 0..last; torch.clamp's gradient at the ends themselves depends on the version, here they count as inside."""
    return torch.where((x >= 0) & (x <= last), x, x.detach().clamp(0, last))


@torch.library.custom_op("head2head::resample2d", mutates_args=(), device_types="cuda")
def _forward(image: Tensor, flow_px: Tensor) -> Tensor:
    out = torch.empty(image.shape, dtype=image.dtype, device=image.device)
    if out.numel():
        launch("resample2d_forward", image, image, flow_px.contiguous(), out, *image.shape, *image.stride())
    return out


@_forward.register_fake
def _(image: Tensor, flow_px: Tensor) -> Tensor:
    return torch.empty(image.shape, dtype=image.dtype, device=image.device)


@torch.library.custom_op("head2head::resample2d_backward", mutates_args=(), device_types="cuda")
def _backward(grad: Tensor, image: Tensor, flow_px: Tensor, of_image: bool, of_flow: bool) -> tuple[Tensor, Tensor]:
    """The gradients of image and flow; one that is not asked for is empty."""
    grad_image = torch.zeros(image.shape if of_image else (0,), dtype=torch.float32, device=image.device)
    grad_flow = torch.empty(flow_px.shape if of_flow else (0,), dtype=torch.float32, device=image.device)
    if grad.numel():
        targets = (grad_image if of_image else None, grad_flow if of_flow else None)
        launch("resample2d_backward", image, grad.contiguous(), image, flow_px.contiguous(), *targets, *image.shape, *image.stride())
    elif of_flow:
        grad_flow.zero_()  # an image without channels
    return grad_image.to(image.dtype), grad_flow


@_backward.register_fake
def _(grad: Tensor, image: Tensor, flow_px: Tensor, of_image: bool, of_flow: bool) -> tuple[Tensor, Tensor]:
    grad_image = torch.empty(image.shape if of_image else (0,), dtype=image.dtype, device=image.device)
    return grad_image, torch.empty(flow_px.shape if of_flow else (0,), dtype=torch.float32, device=image.device)


def _save(ctx, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    of_image, of_flow = ctx.needs_input_grad
    grad_image, grad_flow = _backward(grad, *ctx.saved_tensors, of_image, of_flow)
    return grad_image if of_image else None, grad_flow if of_flow else None


_forward.register_autograd(_differentiate, setup_context=_save)
