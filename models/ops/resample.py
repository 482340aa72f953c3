"""Bilinear backward warp by a flow in pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resample2d(image: Tensor, flow_px: Tensor) -> Tensor:
    """out(x, y) = image(x + flow_x(x, y), y + flow_y(x, y)), coordinates clamped to the border, computed in float32.

    image: [B, C, H, W]. flow_px: [B, 2, H, W], x first, in pixels. Returns: [B, C, H, W] of the image's type.
    """
    _, _, h, w = image.shape
    x = torch.arange(w, device=image.device, dtype=torch.float32)
    y = torch.arange(h, device=image.device, dtype=torch.float32)
    flow = flow_px.float()
    # grid_sample's coordinates: -1 and 1 are the centres of the first and the last pixel (align_corners)
    grid = torch.stack([(x + flow[:, 0]) * (2 / max(w - 1, 1)) - 1, (y[:, None] + flow[:, 1]) * (2 / max(h - 1, 1)) - 1], dim=-1)
    return F.grid_sample(image.float(), grid, mode="bilinear", padding_mode="border", align_corners=True).to(image.dtype)
