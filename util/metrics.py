"""Measures between real and synthesised frames, and heatmaps of the error.

The names and units are those of the Head2Head paper (Koujan et al., FG 2020): distances are in grey levels of 8-bit RGB.

APD stands for average *pixel* distance here and in that paper. Others (Ha et al., MarioNETte, AAAI 2020, and those who follow it) call
an average *pose* distance APD: ours is called ARD-L1 below, average rotation distance.

**In every frame**, between the real and the synthesised one (`frame_measures`):

APD-L2        mean over all pixels of the Euclidean distance between the RGB values of the real and the synthesised frame,
              0 (equal) .. 441.7 (black against white, 255 sqrt 3); lower is better.
MAPD-L2       the same over the pixels inside the face, where the NMFC image is not black.
mouth-APD-L2  the same over the mouth window: 72 x 72 pixels of a 256 x 256 frame (in proportion for other sizes) around the
              median of landmarks 48-67, kept inside the frame.
PSNR          peak signal-to-noise ratio in dB over all RGB values, peak 255; higher is better.
SSIM          structural similarity, -1..1 (1: equal): Gaussian window of sigma 1.5, mean of the three channels
              (Wang et al., IEEE TIP 2004).

**Over a video** (scripts/evaluate.py and preprocessing/compute_*.py say which of them can be had):

eye-landmarks the mean Euclidean distance of the 14 eye landmarks (36-47 and the pupils 68, 69), found again by the landmark detector in
              the real and in the synthesised frame, in pixels; lower is better.
DAI-L1        distance of average identities: the face model is fitted to the landmarks of the real frames and, separately, to those of
              the synthesised ones; L1 distance of the two (mean) identity vectors, i.e. the sum of the coefficients' differences, in
              standard deviations of the model; lower is better.
AED-L1        average expression distance: L1 distance of the two expression vectors of a frame, mean over the frames; coefficients are
              weights of shapes (1: fully there); lower is better.
ARD-L1        average rotation distance: absolute difference of the head's yaw, pitch and roll, mean over the three and the frames,
              degrees; lower is better.
flicker       of the person's pixels, and of the background's: mean over these pixels and the frames of the second difference over time,
              |before - 2 now + after|, mean of the three channels; grey levels, 0..510. What moves evenly counts little, what trembles,
              flashes or is grainy counts much. The same of the real frames, over the same pixels, is what a result should come near
              to: a frozen or a blurred head is as wrong below it as a trembling one is above it. The person's pixels are those that
              the matte of the real frames (MediaPipe) shows in one of the three frames, and a margin of 2 % of the picture's side.

How near a value is to that of the real video: by how many times it is larger or smaller (`distance_from_real`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from util.compiled import compiled
from util.face.landmarks import EYES
from util.face.roi import scaled_size, window

MAX_DISTANCE = 255 * math.sqrt(3)
_SSIM_WINDOW = 11  # pixels, of the Gaussian window of sigma 1.5
HEATMAP_FULL_SCALE = 100.0  # RGB distance that gets the hottest colour: larger errors are rare and would flatten all others


@dataclass(frozen=True)
class Measure:
    """How to show a measure."""

    title: str
    unit: str
    better: str  # 'lower', 'higher', 'nearer' (to the real video's own value); '': for information
    meaning: str

    @property
    def wanted(self) -> str:
        """'lower is better' and the like; '' for information."""
        if self.better == "nearer":
            return "nearer to the real video's is better"
        return f"{self.better} is better" if self.better else ""


# of every frame
MEASURES = {
    "APD-L2": Measure("APD-L2", "grey levels, 0-441", "lower", "mean RGB distance between real and synthesised pixels"),
    "MAPD-L2": Measure("MAPD-L2", "grey levels, 0-441", "lower", "the same, inside the face (the NMFC mask)"),
    "mouth-APD-L2": Measure("mouth-APD-L2", "grey levels, 0-441", "lower", "the same, inside the mouth window (72x72 pixels of 256x256)"),
    "PSNR": Measure("PSNR", "dB", "higher", "peak signal-to-noise ratio over the whole frame"),
    "SSIM": Measure("SSIM", "-1 to 1", "higher", "structural similarity over the whole frame"),
}


# over a video
VIDEO_MEASURES = {
    "flicker-person": Measure("flicker of the person", "grey levels, 0-510", "nearer", "second difference over time of its pixels"),
    "flicker-background": Measure("flicker of the background", "grey levels, 0-510", "nearer", "the same of all other pixels"),
    "eye-landmarks": Measure("eye landmarks", "pixels", "lower", "mean distance of the 14 eye landmarks found in both frames"),
    "DAI-L1": Measure("DAI-L1", "standard deviations, summed", "lower", "distance of the identities fitted to real and synthesised frames"),
    "AED-L1": Measure("AED-L1", "shape weights, summed", "lower", "distance of the fitted expressions"),
    "ARD-L1": Measure("ARD-L1", "degrees", "lower", "difference of yaw, pitch and roll, mean of the three (others call it APD)"),
}


def pixel_distance(real: np.ndarray, fake: np.ndarray) -> np.ndarray:
    """Euclidean distance of the RGB values of two uint8 [H, W, 3] images; float32 [H, W], 0..441.7."""
    if real.shape != fake.shape or real.dtype != np.uint8 or fake.dtype != np.uint8:
        raise ValueError(f"uint8 images of one size are expected, not {real.dtype} {real.shape} and {fake.dtype} {fake.shape}")
    difference = real.astype(np.float32) - fake
    return np.sqrt(np.einsum("hwc,hwc->hw", difference, difference))


def face_mask(nmfc: np.ndarray) -> np.ndarray:
    """bool [H, W]: where an NMFC image, uint8 [H, W, 3], shows the face."""
    return cv2.inRange(nmfc, (0, 0, 0), (0, 0, 0)) == 0  # a tenth of the time of any(-1)


def frame_measures(real: np.ndarray, fake: np.ndarray, nmfc: np.ndarray, landmarks: np.ndarray) -> dict[str, float]:
    """All measures of one frame by the names in MEASURES.

    real, fake, nmfc: uint8 [H, W, 3] RGB. landmarks: [70, 2] of the real frame in pixels.
    MAPD-L2 is nan when the NMFC image is empty; PSNR of equal images is inf.
    """
    distance = pixel_distance(real, fake)
    height, width = distance.shape
    mask = face_mask(nmfc)
    side = scaled_size(min(height, width))
    left, top = window(landmarks, "mouth", side, height, width)
    squared_error = float(np.mean(distance**2, dtype=np.float64)) / 3
    return {
        "APD-L2": float(distance.mean()),
        "MAPD-L2": float(distance[mask].mean()) if mask.any() else math.nan,
        "mouth-APD-L2": float(distance[top : top + side, left : left + side].mean()),
        "PSNR": 10 * math.log10(255**2 / squared_error) if squared_error else math.inf,
        "SSIM": structural_similarity(real, fake),
    }


def structural_similarity(real: np.ndarray, fake: np.ndarray) -> float:
    """SSIM of two uint8 [H, W, 3] images, of at least 11 x 11 pixels, as the paper defines it: the same as
    skimage.metrics.structural_similarity with gaussian_weights and without use_sample_covariance, in a twentieth of the time."""
    return float(_ssim_function()(real, fake, cv2.getGaussianKernel(_SSIM_WINDOW, 1.5)[:, 0]))


@lru_cache(maxsize=1)
def _ssim_function():
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2

    def ssim(real, fake, taps):
        height, width, channels = real.shape
        count = len(taps)
        wide = width - count + 1
        x, y, squares, products = np.empty((4, height, width))
        columns, means = np.empty((4, width)), np.empty((4, wide))
        total = 0.0
        for channel in range(channels):
            for i in range(height):
                for j in range(width):
                    a, b = float(real[i, j, channel]), float(fake[i, j, channel])
                    x[i, j], y[i, j], squares[i, j], products[i, j] = a, b, a * a + b * b, a * b
            for i in range(height - count + 1):
                columns[:] = 0
                for k in range(count):  # the inner loops run along rows, several numbers at once
                    tap, row = taps[k], i + k
                    for j in range(width):
                        columns[0, j] += tap * x[row, j]
                        columns[1, j] += tap * y[row, j]
                        columns[2, j] += tap * squares[row, j]
                        columns[3, j] += tap * products[row, j]
                means[:] = 0
                for k in range(count):
                    tap = taps[k]
                    for m in range(4):
                        for j in range(wide):
                            means[m, j] += tap * columns[m, j + k]
                for j in range(wide):
                    product, square = means[0, j] * means[1, j], means[0, j] * means[0, j] + means[1, j] * means[1, j]
                    likeness = (2 * product + c1) * (2 * (means[3, j] - product) + c2)
                    total += likeness / ((square + c1) * (means[2, j] - square + c2))
        return total / (channels * wide * (height - count + 1))

    return compiled(ssim)


def mean_measures(per_frame: list[dict[str, float]]) -> dict[str, float]:
    """Mean over the frames of every measure; frames where one is not finite are left out of its mean (nan if all are)."""
    means = {}
    for name in MEASURES:
        values = np.array([m[name] for m in per_frame], float)
        values = values[np.isfinite(values)]
        means[name] = float(values.mean()) if values.size else math.nan
    return means


def second_difference(before: np.ndarray, now: np.ndarray, after: np.ndarray) -> np.ndarray:
    """|before - 2 now + after| of three consecutive frames, uint8 [H, W, 3], mean of the channels; float32 [H, W], 0..510."""
    difference = before.astype(np.int16) + after - 2 * now.astype(np.int16)
    return np.abs(difference).mean(-1, dtype=np.float32)


def distance_from_real(value: float, real: float) -> float:
    """How far a measure that is never negative is from its value in the real video: 0 (equal) .. inf; twice and half are equally far."""
    if value == real:
        return 0.0
    if real == 0:
        return value
    return abs(math.log(value / real)) if value > 0 else math.inf


def eye_landmark_distance(real: np.ndarray, fake: np.ndarray) -> np.ndarray:
    """Mean distance of the 14 eye landmarks: [..., 70, 2] twice -> [...], in the same unit; nan where one is nan."""
    return np.linalg.norm(np.asarray(real)[..., EYES, :] - np.asarray(fake)[..., EYES, :], axis=-1).mean(-1)


def identity_distance(a: np.ndarray, b: np.ndarray) -> float:
    """DAI-L1 of two (mean) identity vectors [K]: the sum of the absolute differences."""
    return float(np.abs(np.asarray(a) - b).sum())


def expression_distance(real: np.ndarray, fake: np.ndarray) -> np.ndarray:
    """AED-L1 of every frame: expressions [N, K] twice -> [N]."""
    return np.abs(np.asarray(real) - fake).sum(-1)


def rotation_distance(real_deg: np.ndarray, fake_deg: np.ndarray) -> np.ndarray:
    """ARD-L1 of every frame: yaw, pitch and roll in degrees, [N, 3] twice -> [N], degrees; 359 and 1 are 2 apart."""
    difference = np.asarray(real_deg) - fake_deg
    return np.abs((difference + 180) % 360 - 180).mean(-1)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation of two curves [N] over the frames in which both are known; nan when one of them does not move."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known], b[known]
    if len(a) < 3 or a.std() < 1e-9 or b.std() < 1e-9:
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])


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
