"""The coarse grid that fields over a frame lie on (data.augmentation.head_motion)."""

from __future__ import annotations

import cv2
import numpy as np

GRID = 64  # points a side of a field, and places a side at which NMFC images are looked at


def on_grid(nmfcs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """NMFC images [N, H, H, 3] at the grid's points, [N, G, G, 3], and where they show the face, bool [N, G, G]."""
    along = ((np.arange(GRID) + 0.5) * (nmfcs.shape[1] / GRID)).astype(int)
    small = nmfcs.take(along, 1).take(along, 2)
    return small, (small[..., 0] | small[..., 1] | small[..., 2]) > 0


def nearest(where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far every cell of [g, g] is from the nearest one of `where`, which must hold some, in cells; and that one's flat index [g, g]."""
    away, labels = cv2.distanceTransformWithLabels((where == 0).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    cells = np.flatnonzero(where)
    of_label = np.empty(labels.max() + 1, np.int64)
    of_label[labels.ravel()[cells]] = cells
    return away, of_label[labels]


def grid_points(size: int, count: int) -> np.ndarray:
    """Centres of a grid's cells on a frame, float32 [count, count, 2], x and y in pixels."""
    along = (np.arange(count, dtype=np.float32) + 0.5) * (size / count)
    return np.stack(np.meshgrid(along, along), -1)
