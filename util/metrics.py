"""Measures between real and synthesised frames, and heatmaps of the error.

The names and units are those of the Head2Head paper (Koujan et al., FG 2020): distances are in grey levels of 8-bit RGB.

APD-L2        mean over all pixels of the Euclidean distance between the RGB values of the real and the synthesised frame,
              0 (equal) .. 441.7 (black against white, 255 sqrt 3); lower is better.
MAPD-L2       the same over the pixels inside the face, where the NMFC image is not black.
mouth-APD-L2  the same over the mouth window: 72 x 72 pixels of a 256 x 256 frame (in proportion for other sizes) around the
              median of landmarks 48-67, kept inside the frame.
PSNR          peak signal-to-noise ratio in dB over all RGB values, peak 255; higher is better.
SSIM          structural similarity, -1..1 (1: equal): Gaussian window of sigma 1.5, mean of the three channels
              (Wang et al., IEEE TIP 2004).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from util.roi import scaled_size, window

MAX_DISTANCE = 255 * math.sqrt(3)
HEATMAP_FULL_SCALE = 100.0  # RGB distance that gets the hottest colour: larger errors are rare and would flatten all others


@dataclass(frozen=True)
class Measure:
    """How to show a measure."""

    title: str
    unit: str
    better: str  # 'lower' or 'higher'
    meaning: str


MEASURES = {
    "APD-L2": Measure("APD-L2", "grey levels, 0-441", "lower", "mean RGB distance between real and synthesised pixels"),
    "MAPD-L2": Measure("MAPD-L2", "grey levels, 0-441", "lower", "the same, inside the face (the NMFC mask)"),
    "mouth-APD-L2": Measure("mouth-APD-L2", "grey levels, 0-441", "lower", "the same, inside the mouth window (72x72 pixels of 256x256)"),
    "PSNR": Measure("PSNR", "dB", "higher", "peak signal-to-noise ratio over the whole frame"),
    "SSIM": Measure("SSIM", "-1 to 1", "higher", "structural similarity over the whole frame"),
}


def pixel_distance(real: np.ndarray, fake: np.ndarray) -> np.ndarray:
    """Euclidean distance of the RGB values of two uint8 [H, W, 3] images; float32 [H, W], 0..441.7."""
    if real.shape != fake.shape or real.dtype != np.uint8 or fake.dtype != np.uint8:
        raise ValueError(f"uint8 images of one size are expected, not {real.dtype} {real.shape} and {fake.dtype} {fake.shape}")
    difference = real.astype(np.float32) - fake
    return np.sqrt(np.einsum("hwc,hwc->hw", difference, difference))


def face_mask(nmfc: np.ndarray) -> np.ndarray:
    """bool [H, W]: where an NMFC image, uint8 [H, W, 3], shows the face."""
    return nmfc.any(axis=-1)


def frame_measures(real: np.ndarray, fake: np.ndarray, nmfc: np.ndarray, landmarks: np.ndarray) -> dict[str, float]:
    """All measures of one frame by the names in MEASURES.

    real, fake, nmfc: uint8 [H, W, 3] RGB. landmarks: [70, 2] of the real frame in pixels.
    MAPD-L2 is nan when the NMFC image is empty; PSNR of equal images is inf.
    """
    from skimage.metrics import structural_similarity

    distance = pixel_distance(real, fake)
    height, width = distance.shape
    mask = face_mask(nmfc)
    side = scaled_size(min(height, width))
    left, top = window(landmarks, "mouth", side, height, width)
    squared_error = float(np.mean((real.astype(np.float32) - fake) ** 2))
    return {
        "APD-L2": float(distance.mean()),
        "MAPD-L2": float(distance[mask].mean()) if mask.any() else math.nan,
        "mouth-APD-L2": float(distance[top : top + side, left : left + side].mean()),
        "PSNR": 10 * math.log10(255**2 / squared_error) if squared_error else math.inf,
        "SSIM": float(structural_similarity(real, fake, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)),
    }


def mean_measures(per_frame: list[dict[str, float]]) -> dict[str, float]:
    """Mean over the frames of every measure; frames where one is not finite are left out of its mean (nan if all are)."""
    means = {}
    for name in MEASURES:
        values = np.array([m[name] for m in per_frame], float)
        values = values[np.isfinite(values)]
        means[name] = float(values.mean()) if values.size else math.nan
    return means


def heatmap(real: np.ndarray, fake: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """The RGB distance as colours: blue 0, red HEATMAP_FULL_SCALE and more (matplotlib's jet); uint8 [H, W, 3].

    mask: bool [H, W]; pixels outside of it are black.
    """
    level = np.clip(pixel_distance(real, fake) * (255 / HEATMAP_FULL_SCALE), 0, 255).astype(np.uint8)
    colours = _jet()[level]
    if mask is not None:
        colours[~mask] = 0
    return colours


_jet_colours: np.ndarray | None = None


def _jet() -> np.ndarray:
    """uint8 [256, 3]."""
    global _jet_colours
    if _jet_colours is None:
        from matplotlib import colormaps

        _jet_colours = colormaps["jet"](np.arange(256), bytes=True)[:, :3].copy()
    return _jet_colours
