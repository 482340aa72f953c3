"""Filters over time for a finished motion. All of them look ahead, so nothing lags; none reaches across a cut.

- **Jitter** from tracking noise is removed by `steady`.
- **Repeated frames** (a 24 or 25 frames/s film stored as 30) make motion halt several times a second; `even_out` spreads it evenly.
- The driven head's size and place are smoothed by `moving_average`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import maximum_filter1d, median_filter, uniform_filter1d
from scipy.signal import savgol_filter

from preprocessing.driving.motion import Motion
from util.geometry import nearest_rotation, rotation_matrix, rotation_vector

SMOOTHING_WINDOW_S = 0.25  # window of the local polynomial, shorter than a syllable
SMOOTHING_ORDER = 2  # degree of that polynomial
NOISE_PERCENTILE = 20  # percentile of the local power over the frames that is taken as the noise
NOISE_FACTOR = 1.5  # in standard deviations of that noise; larger changes count as motion
MAX_REPEATED_CHANGE = 0.2  # relative to the usual change between frames; a frame that changes less repeats the one before
MIN_REPEATED_SHARE = 0.04  # share of the frames; fewer repeated frames are coincidence
# How far frames are moved towards an even pace, 0 to 1. 1 halves the accelerations of a film stored at another rate, but shifts fast
# lips by up to half a frame against their sound; 0.5 has most of the effect.
EVEN_PACE_SHARE = 0.5
AVERAGE_S = 0.5  # window of the moving average: 15 frames at 30 frames/s


def runs(joined: np.ndarray) -> list[slice]:
    """Uninterrupted runs of frames. joined: bool [N], whether a frame continues the one before."""
    starts = np.flatnonzero(~joined | (np.arange(len(joined)) == 0))
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], len(joined)])]


def _odd(frames: float, least: int = 3) -> int:
    return max(least, round(frames) // 2 * 2 + 1)


def moving_average(values: np.ndarray, fps: float, joined: np.ndarray | None = None) -> np.ndarray:
    """Centred moving average over AVERAGE_S of [N, ...]; at the ends the first and last value are repeated."""
    joined = np.arange(len(values)) > 0 if joined is None else joined
    return np.concatenate([uniform_filter1d(values[part], _odd(AVERAGE_S * fps), axis=0, mode="nearest") for part in runs(joined)])


def steady(values: np.ndarray, fps: float, joined: np.ndarray | None = None) -> np.ndarray:
    """Remove jitter from curves [N, C] without lag and without flattening quick motion.

    A local polynomial (Savitzky & Golay 1964) over SMOOTHING_WINDOW_S gives the slow part. The residual is noise where it is weak and
    motion (a blink, a syllable) where it is strong; it is weighted by Wiener's gain from its local power, 1 - noise / power (the
    estimate of Lee 1980, along time). The noise is the NOISE_PERCENTILE of each curve's local power, times NOISE_FACTOR squared.
    """
    joined = np.arange(len(values)) > 0 if joined is None else joined
    window = _odd(SMOOTHING_WINDOW_S * fps, 5)
    slow = np.empty(values.shape, np.float64)
    for part in runs(joined):
        count = len(range(*part.indices(len(values))))
        fits = min(window, count if count % 2 else count - 1)
        slow[part] = savgol_filter(values[part], fits, SMOOTHING_ORDER, axis=0) if fits > SMOOTHING_ORDER else values[part]
    quick = values - slow
    power = np.maximum(uniform_filter1d(quick**2, window, axis=0, mode="nearest"), 0)
    noise = NOISE_FACTOR**2 * np.percentile(power, NOISE_PERCENTILE, axis=0)
    # The strongest window that contains a frame decides, so a blink's flanks are kept with its peak; the average removes steps.
    power = maximum_filter1d(power, window, axis=0, mode="nearest")
    gain = np.maximum(0, 1 - noise / np.maximum(power, 1e-30))
    return slow + quick * uniform_filter1d(gain, window, axis=0, mode="nearest")


def repeated_frames(change: np.ndarray, fps: float) -> np.ndarray:
    """Find frames that only repeat the one before, by how little the image changes: bool [N].

    change: [N], mean difference of each image to the one before (any unit; the first is not used). A frame is repeated when it
    changes less than MAX_REPEATED_CHANGE times the median around it. Below MIN_REPEATED_SHARE of the frames (a head at rest), none is.
    """
    usual = median_filter(np.r_[change[1:2], change[1:]], size=_odd(fps), mode="reflect")
    repeated = change < MAX_REPEATED_CHANGE * usual
    repeated[:1] = False
    return repeated if repeated.mean() > MIN_REPEATED_SHARE else np.zeros(len(change), bool)


def even_out(motion: Motion, repeated: np.ndarray, joined: np.ndarray) -> Motion:
    """Spread motion evenly over frames of which some only repeat the one before.

    repeated: bool [N]. New frames are moved towards an even pace within half a second; the motion between them is
    interpolated (Fritsch & Carlson 1980, no overshoot). No frame moves by one frame or more.
    """
    new = ~repeated | ~joined
    if new.all():
        return motion
    # a moving average of their places spaces them evenly
    seen = np.flatnonzero(new)
    window = _odd(AVERAGE_S * float(motion.fps))
    place = np.empty(len(seen))
    for part in runs(joined):
        own = (seen >= part.start) & (seen < part.stop)
        enough = min(window, own.sum() - (own.sum() + 1) % 2)
        place[own] = savgol_filter(seen[own].astype(float), enough, 1) if enough > 1 else seen[own]
    place = np.clip(seen + EVEN_PACE_SHARE * (place - seen), seen - 0.99, seen + 0.99)

    def spread(curves: np.ndarray) -> np.ndarray:
        out = curves.copy()
        for part in runs(joined):
            own = (seen >= part.start) & (seen < part.stop)
            if own.sum() > 2:
                at = np.clip(np.arange(part.start, part.stop), place[own][0], place[own][-1])
                out[part] = PchipInterpolator(place[own], curves[seen[own]], axis=0)(at)
        return out

    return map_curves(motion, spread)


def steady_motion(motion: Motion, joined: np.ndarray, bounds: np.ndarray) -> Motion:
    """`steady` for all of a motion; expressions stay within the model's bounds [K, 2]."""
    out = map_curves(motion, lambda curves: steady(curves, float(motion.fps), joined))
    return replace(out, expression=np.clip(out.expression, *bounds.T))


def map_curves(motion: Motion, change: Callable[[np.ndarray], np.ndarray]) -> Motion:
    """A motion after `change` of all its curves together, [N, C]; rotation goes as vectors about its mean."""
    middle = nearest_rotation(motion.rotation.mean(0))
    parts = {"rotation": rotation_vector(middle.T @ motion.rotation)}
    parts |= {k: v for k in ("zoom", "shift", "expression", "pupils", "eyes", "lids", "lips") if (v := getattr(motion, k)) is not None}
    flat = [v.reshape(len(motion), -1) for v in parts.values()]
    changed = np.split(change(np.concatenate(flat, 1)), np.cumsum([f.shape[1] for f in flat])[:-1], axis=1)
    out = {k: c.reshape(v.shape) for (k, v), c in zip(parts.items(), changed)}
    return replace(motion, **{**out, "rotation": middle @ rotation_matrix(out["rotation"])})
