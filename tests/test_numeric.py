"""util/numeric.py"""

import numpy as np
import pytest

from util.numeric import fill_gaps, smoothstep


def test_smoothstep_rises_from_low_to_high_and_is_level_at_both():
    x = np.linspace(-1, 4, 501, dtype=np.float32)
    y = smoothstep(x, 1, 3)
    assert y.dtype == np.float32 and (np.diff(y) >= 0).all()
    assert (y[x <= 1] == 0).all() and (y[x >= 3] == 1).all()
    np.testing.assert_allclose(smoothstep(np.array([1.5, 2.0, 2.5]), 1, 3), [0.15625, 0.5, 0.84375])
    assert smoothstep(0.25) == 0.15625  # scalars, too
    slope = np.gradient(smoothstep(np.linspace(0, 1, 1001)), 0.001)
    assert abs(slope[0]) < 0.01 and abs(slope[-1]) < 0.01 and slope.max() == pytest.approx(1.5, abs=1e-3)


def test_gaps_are_filled_between_neighbours():
    points = np.arange(7, dtype=np.float32)[:, None, None] * np.ones((7, 4, 3), np.float32)
    missed = np.array([1, 0, 0, 1, 1, 0, 1], bool)
    points[missed] = np.nan
    filled = fill_gaps(points, missed)
    assert filled[:, 0, 0].tolist() == [1, 1, 2, 3, 4, 5, 5] and filled.shape == points.shape and filled.dtype == np.float32
    assert np.isnan(points[missed]).all()  # the input stays
    assert fill_gaps(np.array([2.0, np.nan, 6.0]), [False, True, False]).tolist() == [2, 4, 6]


def test_nothing_is_filled_from_nothing():
    with pytest.raises(ValueError, match="all frames"):
        fill_gaps(np.full((3, 2), np.nan), np.ones(3, bool))
