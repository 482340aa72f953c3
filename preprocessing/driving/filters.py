"""Filters over the time of a finished motion. All of them look ahead, so nothing lags; none reaches over a cut.

- **Jitter** is what remains of tracking noise: `steady` takes it away.
- **Repeated frames** (a 24 or 25 frames/s film stored as 30) make motion halt several times a second: `even_out` moves it on.
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

STEADY_S = 0.25  # seconds of the polynomial that jitter is measured against: shorter than a syllable
STEADY_ORDER = 2  # of that polynomial
NOISE_PERCENTILE = 20  # of the frames: those in which least happens tell the noise
NOISE_FACTOR = 1.5  # standard deviations of that noise above which a change begins to count as motion
REPEATED = 0.2  # of the usual change: a picture that changes less repeats the one before
REPEATED_OFTEN = 0.04  # of the frames; fewer are chance
# How far towards an even pace motion is moved, 0 to 1. 1 halves the accelerations of a film stored at another rate, but shows fast
# lips up to half a frame beside their sound; 0.5 does most of it.
EVENED = 0.5
AVERAGE_S = 0.5  # seconds of the moving average: 15 frames of 30 a second


def runs(joined: np.ndarray) -> list[slice]:
    """The stretches of frames that follow one another, from joined [N] bool."""
    starts = np.flatnonzero(~joined | (np.arange(len(joined)) == 0))
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], len(joined)])]


def _odd(frames: float, least: int = 3) -> int:
    return max(least, round(frames) // 2 * 2 + 1)


def moving_average(values: np.ndarray, fps: float, joined: np.ndarray | None = None) -> np.ndarray:
    """Centred moving average over AVERAGE_S of [N, ...]; at the ends the first and last value are repeated."""
    joined = np.arange(len(values)) > 0 if joined is None else joined
    return np.concatenate([uniform_filter1d(values[part], _odd(AVERAGE_S * fps), axis=0, mode="nearest") for part in runs(joined)])


def steady(values: np.ndarray, fps: float, joined: np.ndarray | None = None) -> np.ndarray:
    """Take jitter out of curves [N, C] without lag and without flattening what is quick.

    A local polynomial (Savitzky & Golay 1964) over STEADY_S gives the slow part. What is left over is noise where it is weak and
    motion (a blink, a syllable) where it is strong, and is weighted by Wiener's gain from its local power, 1 - noise / power (the
    estimate of Lee 1980, along time). The noise is told by the NOISE_PERCENTILE quietest frames of each curve.
    """
    joined = np.arange(len(values)) > 0 if joined is None else joined
    window = _odd(STEADY_S * fps, 5)
    slow = np.empty(values.shape, np.float64)
    for part in runs(joined):
        count = len(range(*part.indices(len(values))))
        fits = min(window, count if count % 2 else count - 1)
        slow[part] = savgol_filter(values[part], fits, STEADY_ORDER, axis=0) if fits > STEADY_ORDER else values[part]
    quick = values - slow
    power = np.maximum(uniform_filter1d(quick**2, window, axis=0, mode="nearest"), 0)
    noise = NOISE_FACTOR**2 * np.percentile(power, NOISE_PERCENTILE, axis=0)
    # The strongest window that a frame lies in decides, so a blink's flanks are kept with its peak; the average takes the steps out.
    power = maximum_filter1d(power, window, axis=0, mode="nearest")
    gain = np.maximum(0, 1 - noise / np.maximum(power, 1e-30))
    return slow + quick * uniform_filter1d(gain, window, axis=0, mode="nearest")


def repeated_frames(change: np.ndarray, fps: float) -> np.ndarray:
    """Which frames only repeat the one before, by how much the picture changes: bool [N].

    change: [N], mean difference of each picture to the one before (any unit; the first is not used). Repeated are those that change
    less than a fifth of what is usual around them. A few such frames are chance (a head that comes to rest): then none are taken.
    """
    usual = median_filter(np.r_[change[1:2], change[1:]], size=_odd(fps), mode="reflect")
    repeated = change < REPEATED * usual
    repeated[:1] = False
    return repeated if repeated.mean() > REPEATED_OFTEN else np.zeros(len(change), bool)


def even_out(motion: Motion, repeated: np.ndarray, joined: np.ndarray) -> Motion:
    """Spread motion evenly over frames of which some only repeat the one before.

    repeated: bool [N]. The frames that are new are moved towards an even pace within half a second; the motion between them is
    interpolated (Fritsch & Carlson 1980, no overshoot). None moves by as much as the time of one frame.
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
    place = np.clip(seen + EVENED * (place - seen), seen - 0.99, seen + 0.99)

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
    parts |= {k: v for k in ("zoom", "shift", "expression", "pupils", "lids", "lips") if (v := getattr(motion, k)) is not None}
    flat = [v.reshape(len(motion), -1) for v in parts.values()]
    changed = np.split(change(np.concatenate(flat, 1)), np.cumsum([f.shape[1] for f in flat])[:-1], axis=1)
    out = {k: c.reshape(v.shape) for (k, v), c in zip(parts.items(), changed)}
    return replace(motion, **{**out, "rotation": middle @ rotation_matrix(out["rotation"])})
