"""Small numeric functions that several packages share."""

from __future__ import annotations

import numpy as np


def smoothstep(x: np.ndarray, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """0 up to `low`, 1 from `high` on, and Hermite's cubic 3 t^2 - 2 t^3 between, which is level at both ends. Keeps a float dtype."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def fill_gaps(values: np.ndarray, missed: np.ndarray) -> np.ndarray:
    """Values over time with those of missed frames interpolated linearly between their neighbours; the ends repeat the nearest frame.

    values: float [N, ...]; missed: bool [N]. Returns a new array of the same shape and dtype.
    Raises: ValueError when all frames are missed.
    """
    missed = np.asarray(missed, bool)
    if missed.all():
        raise ValueError("all frames are missed")
    filled = values.copy()
    if missed.any():
        known, gaps = np.flatnonzero(~missed), np.flatnonzero(missed)
        columns = filled.reshape(len(values), -1)  # a view: the copy is contiguous
        for column in columns.T:
            column[gaps] = np.interp(gaps, known, column[known])
    return filled
