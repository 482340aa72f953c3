"""Choosing evenly spread samples."""

from __future__ import annotations

import numpy as np


def spread(count: int, most: int) -> np.ndarray:
    """Up to `most` of the indices 0 .. count - 1, evenly spread, the first and the last among them: int, ascending, none twice."""
    return np.unique(np.linspace(0, count - 1, most).round().astype(int))
