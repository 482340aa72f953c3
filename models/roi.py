"""Cutting windows (util.face.roi) out of batches of images, without waiting for the GPU."""

from __future__ import annotations

import torch
from torch import Tensor


def crop(images: Tensor, corner: Tensor, side: int) -> Tensor:
    """Cut [top : top + side, left : left + side] out of each image.

    images: [N, C, H, W]. corner: int64 [N, 2], left and top, the window inside of the image. Returns: [N, C, side, side].
    """
    n, c, _, w = images.shape
    steps = torch.arange(side, device=images.device)
    rows = (corner[:, 1, None] + steps).view(n, 1, side, 1).expand(n, c, side, w)
    columns = (corner[:, 0, None] + steps).view(n, 1, 1, side).expand(n, c, side, side)
    return images.gather(2, rows).gather(3, columns)
