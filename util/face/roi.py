"""Square windows around the mouth and the eyes: what the local discriminators look at and mouth-APD measures."""

from __future__ import annotations

import numpy as np

from util.face.landmarks import EYES, MOUTH

ROI_SIZE = 72  # pixels of a 256-pixel image
REGIONS = {"mouth": MOUTH, "eyes": EYES}


def scaled_size(image_size: int, roi_size: int = ROI_SIZE) -> int:
    """Side in pixels of a window that is `roi_size` pixels at 256, for images of `image_size`: even, at most the image."""
    return min(image_size, 2 * max(1, round(roi_size * image_size / 512)))


def window(landmarks: np.ndarray, region: str, side: int, height: int, width: int) -> np.ndarray:
    """Upper left corners of the square windows around a region, kept inside the frame.

    landmarks: [..., 70, 2], x and y in pixels of the frame. region: "mouth" (centred on the median of landmarks 48-67) or
    "eyes" (of 36-47, 68, 69). Returns: int64 [..., 2], left and top; the window is [top : top + side, left : left + side].
    """
    centre = np.median(np.asarray(landmarks)[..., REGIONS[region], :], axis=-2)
    corner = np.rint(centre - side / 2).astype(np.int64)
    return np.clip(corner, 0, [max(0, width - side), max(0, height - side)])
