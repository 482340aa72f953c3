"""Image operations of the demo clip: blur, masks, filling of holes, look-up. Images are float32, 0..1."""

from __future__ import annotations

import cv2
import numpy as np


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), sigma)


def disc(radius: float) -> np.ndarray:
    size = 2 * round(radius) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))


def fill(image: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Fill the unknown part of an image smoothly from the known one (push-pull, Gortler et al. 1996).

    image: float32 [H, W, 3]; known: [H, W], 0..1 confidence. Returns float32 [H, W, 3].
    """
    height, width = known.shape
    known = known.astype(np.float32)
    if min(height, width) <= 2:
        mean = (image * known[..., None]).sum((0, 1)) / max(float(known.sum()), 1e-6)
        return np.broadcast_to(mean, image.shape).astype(np.float32)
    half = ((width + 1) // 2, (height + 1) // 2)
    weight = cv2.resize(known, half, interpolation=cv2.INTER_AREA)
    coarse = cv2.resize(image * known[..., None], half, interpolation=cv2.INTER_AREA) / np.maximum(weight, 1e-6)[..., None]
    coarse = fill(coarse, np.minimum(weight * 4, 1))
    below = blur(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR), 1)
    return image * known[..., None] + below * (1 - known[..., None])


def guided_filter(guide: np.ndarray, mask: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """Make a mask [H, W] follow the edges of a colour image [H, W, 3] (He et al. 2010, colour guide)."""

    def mean(x: np.ndarray) -> np.ndarray:
        return cv2.blur(x, (2 * radius + 1, 2 * radius + 1))

    mean_guide, mean_mask = mean(guide), mean(mask)
    products = np.stack([mean(guide[..., i] * guide[..., j]) for i in range(3) for j in range(3)], -1)
    covariance = products.reshape(*mask.shape, 3, 3) - mean_guide[..., :, None] * mean_guide[..., None, :]
    cross = mean(guide * mask[..., None]) - mean_guide * mean_mask[..., None]
    slope = np.linalg.solve(covariance + epsilon * np.eye(3, dtype=np.float32), cross[..., None])[..., 0]
    offset = mean_mask - (slope * mean_guide).sum(-1)
    return np.clip((mean(slope) * guide).sum(-1) + mean(offset), 0, 1)


def look_up(image: np.ndarray, x: np.ndarray, y: np.ndarray, zoom: float) -> np.ndarray:
    """Values of an image, which has `zoom` pixels a photo pixel, at photo pixels x, y [h, w] (pixel corners count from 0)."""
    return cv2.remap(
        image, (x * zoom - 0.5).astype(np.float32), (y * zoom - 0.5).astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )
