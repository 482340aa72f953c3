"""Rotations and weak-perspective cameras, batched.

A camera maps a model point X (x to the subject's left, y up, z towards the camera) to `scale * R @ X + T`: x right and
y down in pixels, z away from the camera. So the camera of a frontal face has R = FRONTAL, and R @ FRONTAL is the head's
rotation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FRONTAL = np.diag([1.0, -1.0, -1.0])


def rotation_matrix(vector: np.ndarray) -> np.ndarray:
    """Rodrigues' formula: rotation vectors [..., 3] in radians to matrices [..., 3, 3]."""
    vector = np.asarray(vector, np.float64)
    angle = np.linalg.norm(vector, axis=-1)[..., None, None]
    k = cross_matrix(vector)
    # sin(a)/a and (1 - cos(a))/a^2 without a division by zero (np.sinc(x) = sin(pi x)/(pi x))
    first = np.sinc(angle / np.pi)
    second = 0.5 * np.sinc(angle / (2 * np.pi)) ** 2
    return np.eye(3) + first * k + second * (k @ k)


def rotation_vector(matrix: np.ndarray) -> np.ndarray:
    """Rotation matrices [..., 3, 3] to vectors [..., 3] in radians, of length at most pi.

    Through the unit quaternion (Shepperd's choice of the largest component), so it is exact near 0 and near pi.
    """
    m = np.asarray(matrix, np.float64)
    diagonal = np.diagonal(m, axis1=-2, axis2=-1)
    trace = diagonal.sum(-1)
    # 4 q q^T of the quaternion q = (w, x, y, z)
    q = np.empty((*m.shape[:-2], 4, 4))
    q[..., 0, 0] = 1 + trace
    for i in range(3):
        q[..., i + 1, i + 1] = 1 + 2 * diagonal[..., i] - trace
        j, k = (i + 1) % 3, (i + 2) % 3
        q[..., 0, i + 1] = q[..., i + 1, 0] = m[..., k, j] - m[..., j, k]
        q[..., j + 1, k + 1] = q[..., k + 1, j + 1] = m[..., k, j] + m[..., j, k]
    best = np.diagonal(q, axis1=-2, axis2=-1).argmax(-1)
    row = np.take_along_axis(q, best[..., None, None], -2)[..., 0, :]
    row = row / np.linalg.norm(row, axis=-1, keepdims=True)
    row = np.where(row[..., :1] < 0, -row, row)
    length = np.linalg.norm(row[..., 1:], axis=-1, keepdims=True)
    angle = 2 * np.arctan2(length, row[..., :1])
    return row[..., 1:] * np.where(length > 1e-12, angle / np.maximum(length, 1e-12), 2.0)


def cross_matrix(vector: np.ndarray) -> np.ndarray:
    """Matrices [..., 3, 3] with cross_matrix(a) @ b = a x b."""
    x, y, z = np.moveaxis(np.asarray(vector), -1, 0)
    o = np.zeros_like(x)
    return np.stack([np.stack([o, -z, y], -1), np.stack([z, o, -x], -1), np.stack([-y, x, o], -1)], -2)


def nearest_rotation(matrix: np.ndarray) -> np.ndarray:
    """The rotation closest to each matrix [..., 3, 3] (Frobenius norm)."""
    u, _, vt = np.linalg.svd(matrix)
    sign = np.sign(np.linalg.det(u @ vt))
    vt = vt.copy()
    vt[..., 2, :] *= sign[..., None]
    return u @ vt


def angle_between_deg(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Angle in degrees between rotations [..., 3, 3]."""
    return np.rad2deg(np.linalg.norm(rotation_vector(a @ np.swapaxes(b, -1, -2)), axis=-1))


@dataclass(frozen=True)
class Cameras:
    """Weak-perspective cameras of N frames."""

    scale: np.ndarray  # float64 [N], pixels per model unit
    rotation: np.ndarray  # float64 [N, 3, 3]
    translation: np.ndarray  # float64 [N, 3], pixels; z is 0

    def __len__(self) -> int:
        return len(self.scale)

    def __getitem__(self, index: int | slice | np.ndarray) -> Cameras:
        return Cameras(self.scale[index], self.rotation[index], self.translation[index])

    def followed_by(self, other: Cameras) -> Cameras:
        """These N and the other's M as N + M."""
        pairs = zip(vars(self).values(), vars(other).values())
        return Cameras(*(np.concatenate(pair) for pair in pairs))

    def as_batch(self) -> Cameras:
        """The camera of one frame, as `cameras[i]` with an integer gives it (scale, rotation [3, 3], translation [3]), for N = 1."""
        return Cameras(np.reshape(self.scale, 1), np.reshape(self.rotation, (1, 3, 3)), np.reshape(self.translation, (1, 3)))

    def project(self, points: np.ndarray) -> np.ndarray:
        """Model points [N, P, 3] (or [P, 3] for all) to image space [N, P, 3], in the points' dtype."""
        turn = (self.scale[:, None, None] * self.rotation).astype(points.dtype)
        return points @ np.swapaxes(turn, -1, -2) + self.translation[:, None].astype(points.dtype)
