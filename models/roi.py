"""Windows around the mouth and the eyes, for their own discriminators. No step waits for the GPU."""

from __future__ import annotations

import torch
from torch import Tensor

from util.landmarks import EYES, MOUTH

GROUPS = {"mouth": MOUTH, "eyes": EYES}


def roi_corner(landmarks: Tensor, group: str, roi_size: int, image_size: tuple[int, int]) -> Tensor:
    """Upper left corners of square windows around the median of the mouth's or the eyes' landmarks, kept inside the image.

    landmarks: [N, 70, 2], x y in pixels. group: 'mouth' or 'eyes'. image_size: (H, W), at least roi_size.
    Returns: int64 [N, 2], x y.
    """
    points = landmarks[:, GROUPS[group]].sort(dim=1).values  # [N, points, 2]
    middle = points.shape[1] // 2
    median = (points[:, middle] + points[:, points.shape[1] - 1 - middle]) / 2
    h, w = image_size
    limit = torch.tensor([w - roi_size, h - roi_size], device=landmarks.device)
    return (median - roi_size / 2).round().long().clamp(min=torch.zeros_like(limit), max=limit)


def crop(images: Tensor, corner: Tensor, roi_size: int) -> Tensor:
    """Cut the window at `corner` (int64 [N, 2], x y) out of each of images [N, C, H, W]: [N, C, roi_size, roi_size]."""
    n, c, h, w = images.shape
    steps = torch.arange(roi_size, device=images.device)
    rows = (corner[:, 1, None] + steps).view(n, 1, roi_size, 1).expand(n, c, roi_size, w)
    columns = (corner[:, 0, None] + steps).view(n, 1, 1, roi_size).expand(n, c, roi_size, roi_size)
    return images.gather(2, rows).gather(3, columns)
