"""The coarse grid that fields over a frame lie on (data.augmentation.head_motion)."""

from __future__ import annotations

import numpy as np

GRID = 64  # points a side of a field, and places a side at which NMFC images are looked at


def on_grid(nmfcs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """NMFC images [N, H, H, 3] at the grid's points, [N, G, G, 3], and where they show the face, bool [N, G, G]."""
    along = ((np.arange(GRID) + 0.5) * (nmfcs.shape[1] / GRID)).astype(int)
    small = nmfcs.take(along, 1).take(along, 2)
    return small, (small[..., 0] | small[..., 1] | small[..., 2]) > 0


def grid_points(size: int, count: int) -> np.ndarray:
    """Centres of a grid's cells on a frame, float32 [count, count, 2], x and y in pixels."""
    along = (np.arange(count, dtype=np.float32) + 0.5) * (size / count)
    return np.stack(np.meshgrid(along, along), -1)
