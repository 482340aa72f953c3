"""The face model mesh478 fitted to the portrait: to a single picture, with the detector's depth.

The project's own fit (preprocessing/fitting) is made for videos: from this one picture it takes most of the smile for the person's mouth
(mouthSmile 0.33 instead of 0.80, jawOpen 0.10 instead of 0.24), so that the clip's face would go on smiling at rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from preprocessing.face_models.morphable import MorphableModel
from preprocessing.face_models.registry import load_face_model


@dataclass(frozen=True)
class Fit:
    """Pose and expression of the portrait's face."""

    model: MorphableModel
    scale: float  # photo pixels a centimetre
    rotation: np.ndarray  # [3, 3], camera of the project's convention: diag(1, -1, -1) for a frontal face
    expression: np.ndarray  # [K_exp]


def fit_portrait(landmarks: np.ndarray) -> Fit:
    """Fit mesh478 to the dense landmarks [478, 3] of one picture: pose, and identity and expression, in turns.

    Only the named expression shapes are used. Least squares with a prior that is stronger for identity: one picture cannot
    tell a smile from a broad mouth, and this is a smile.
    """
    from scipy.optimize import least_squares
    from scipy.spatial.transform import Rotation

    model = load_face_model("mesh478")
    named = np.array([not n.startswith("smooth_") for n in model.expression_names])
    mean, identity_basis, expression_basis = model.landmark_model
    basis = np.concatenate([identity_basis, expression_basis[named]]).astype(np.float64)
    people = len(identity_basis)
    low, high = np.full(len(basis), -np.inf), np.full(len(basis), np.inf)
    low[people:], high[people:] = 0, 1
    prior = np.diag(np.r_[np.full(people, 6.0), np.full(named.sum(), 3.0)] ** 2)
    flip = np.diag([1.0, -1.0, -1.0])
    axes = np.array([1, 1, 0.7])  # the detector guesses depth less exactly
    weights = np.zeros(len(basis))
    pose = np.array([0, 0, 0, np.ptp(landmarks[:, 1]) / np.ptp(mean[:, 1])])

    def residuals(p: np.ndarray, shape: np.ndarray) -> np.ndarray:
        difference = p[3] * shape @ (Rotation.from_rotvec(p[:3]).as_matrix() @ flip).T - landmarks
        difference -= difference.mean(0)
        return (difference * axes).ravel()

    for _ in range(10):
        shape = mean + np.tensordot(weights, basis, 1)
        pose = least_squares(residuals, pose, args=(shape,), x_scale=[0.1, 0.1, 0.1, 1]).x
        rotation, scale = Rotation.from_rotvec(pose[:3]).as_matrix() @ flip, pose[3]
        translation = (landmarks - scale * shape @ rotation.T).mean(0)
        columns = (scale * basis @ rotation.T * axes).reshape(len(basis), -1).T
        target = ((landmarks - scale * mean @ rotation.T - translation) * axes).ravel()
        square, right = columns.T @ columns + prior, columns.T @ target
        weights, free = np.zeros(len(basis)), np.ones(len(basis), bool)
        while True:  # weights that leave their bounds are set to them and the others solved again
            weights[free] = np.linalg.solve(square[np.ix_(free, free)], right[free] - square[np.ix_(free, ~free)] @ weights[~free])
            outside = (weights < low) | (weights > high)
            if not outside.any():
                break
            weights = np.clip(weights, low, high)
            free &= ~outside
    expression = np.zeros(len(named))
    expression[named] = weights[people:]
    return Fit(model, float(scale), rotation, expression)
