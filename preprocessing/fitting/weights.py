"""Weights of the dense points in a fit, and the differences of points that are fitted as well."""

from __future__ import annotations

import numpy as np

from preprocessing.face_models.dense_points import BROWS, LIDS, LIPS, N_POINTS, NOSE, NOSE_BASE, OVAL, SKIN
from preprocessing.face_models.morphable import MorphableModel

# With surface points (photometric.py): the weight of each, and the factor on the landmarks of the same part of the head (all above the
# base of the nose except lids and irises).
SURFACE_WEIGHT, LANDMARK_SHARE = 3.0, 0.1


def dense_weights() -> np.ndarray:
    """Weight of each of the 478 dense points in a fit: float64 [478]."""
    weights = np.full(N_POINTS, 0.5)
    for points, weight in ((OVAL, 0.15), (LIDS, 3.0), (LIPS, 3.0), (BROWS, 1.5), (NOSE, 1.5), (range(SKIN, N_POINTS), 2.0)):
        weights[list(points)] = weight
    return weights


def point_weights(points: np.ndarray, model: MorphableModel) -> np.ndarray:
    """Weights of dense points, and of surface points, whose numbers start at N_POINTS: float64 [L]."""
    surface = points >= N_POINTS
    weights = np.r_[dense_weights(), SURFACE_WEIGHT][np.minimum(points, N_POINTS)]
    if surface.any():
        replaced = ~surface & ~np.isin(points, (*LIDS, *range(SKIN, N_POINTS)))
        height = dict(zip(model.landmark_ids.tolist(), model.landmark_model[0][:, 1]))
        replaced &= np.array([height[p] for p in points.tolist()]) > height[NOSE_BASE]
        weights[replaced] *= LANDMARK_SHARE
    return weights


# Differences of points are fitted as well: openings, brows and gaze matter most to a viewer, but are small against the other
# residuals. (points with sign +, points with sign -, weight)
RELATIONS = [((upper,), (lower,), 12.0) for upper, lower in ((161, 163), (160, 144), (159, 145), (158, 153), (157, 154))]
RELATIONS += [((upper,), (lower,), 12.0) for upper, lower in ((384, 381), (385, 380), (386, 374), (387, 373), (388, 390))]
RELATIONS += [((upper,), (lower,), 4.0) for upper, lower in ((80, 88), (81, 178), (82, 87), (13, 14), (312, 317), (311, 402), (310, 318))]
RELATIONS += [((468,), (33, 133), 8.0), ((473,), (263, 362), 8.0)]
RELATIONS += [((brow,), (33, 133), 12.0) for brow in (70, 63, 105, 66, 107)]
RELATIONS += [((brow,), (263, 362), 12.0) for brow in (300, 293, 334, 296, 336)]
