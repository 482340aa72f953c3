"""util/geometry.py against SciPy and by hand."""

import numpy as np
from scipy.spatial.transform import Rotation

from util.geometry import FRONTAL, Cameras, angle_between_deg, cross_matrix, nearest_rotation, rotation_matrix, rotation_vector


def vectors():
    v = np.random.default_rng(0).normal(size=(300, 3))
    v[:20] *= 1e-9
    v[20] = 0
    v[21:60] *= (np.pi - 1e-6) / np.linalg.norm(v[21:60], axis=1, keepdims=True)
    return v


def test_rotations_agree_with_scipy():
    v = vectors()
    matrix = rotation_matrix(v)
    np.testing.assert_allclose(matrix, Rotation.from_rotvec(v).as_matrix(), atol=1e-12)
    np.testing.assert_allclose(rotation_vector(matrix), Rotation.from_matrix(matrix).as_rotvec(), atol=1e-9)
    assert rotation_vector(np.broadcast_to(np.eye(3), (2, 5, 3, 3))).shape == (2, 5, 3)


def test_cross_matrix_and_angles():
    a, b = np.random.default_rng(1).normal(size=(2, 40, 3))
    np.testing.assert_allclose((cross_matrix(a) @ b[..., None])[..., 0], np.cross(a, b), atol=1e-12)
    turn = rotation_matrix(np.array([0, np.deg2rad(30), 0]))
    np.testing.assert_allclose(angle_between_deg(turn @ FRONTAL, FRONTAL), 30)


def test_nearest_rotation_of_a_noisy_one():
    rng = np.random.default_rng(2)
    matrix = rotation_matrix(rng.normal(size=(50, 3)))
    found = nearest_rotation(matrix * 3 + rng.normal(size=matrix.shape) * 1e-3)
    np.testing.assert_allclose(found @ np.swapaxes(found, 1, 2), np.broadcast_to(np.eye(3), found.shape), atol=1e-12)
    assert (np.linalg.det(found) > 0).all() and angle_between_deg(found, matrix).max() < 0.2
    assert np.linalg.det(nearest_rotation(np.diag([1.0, 1.0, -0.1]))) > 0  # never a reflection


def test_camera_of_a_frontal_face():
    camera = Cameras(np.array([10.0]), FRONTAL[None], np.array([[100.0, 50.0, 0.0]]))
    left_up_front = camera.project(np.float32([[1, 2, 3]]))
    assert left_up_front.dtype == np.float32
    np.testing.assert_allclose(left_up_front, [[[110, 30, -30]]])  # right in the image, up, nearer
