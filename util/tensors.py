"""Conversions between images (uint8, channels last) and network tensors (float32, channels first)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


def to_tensor(images: np.ndarray, signed: bool = False) -> torch.Tensor:
    """uint8 [..., H, W, 3] -> float32 [..., 3, H, W] in 0..1, or in -1..1 if signed."""
    import torch

    tensor = torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, -3))).float()
    return tensor.div_(127.5).sub_(1) if signed else tensor.div_(255)


def to_image(tensor: torch.Tensor) -> np.ndarray:
    """float [..., 3, H, W] in -1..1 -> uint8 [..., H, W, 3], rounded."""
    import torch

    with torch.no_grad():
        return tensor.float().add(1).mul(127.5).round_().clamp_(0, 255).to(torch.uint8).movedim(-3, -1).contiguous().cpu().numpy()


def to_device(batch: Any, device: torch.device) -> Any:
    """Move all tensors in nested dicts to a device."""
    return {k: to_device(v, device) for k, v in batch.items()} if isinstance(batch, dict) else batch.to(device, non_blocking=True)
