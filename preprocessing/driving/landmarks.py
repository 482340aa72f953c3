"""The 70 landmarks of fitted and driven heads: on the mesh, in the head's own axes, and where the pupils look."""

from __future__ import annotations

import numpy as np

from preprocessing.driving.heads import Driven, Person
from preprocessing.face_models.morphable import MorphableModel
from util.face.landmarks import LEFT_EYE, LEFT_PUPIL, RIGHT_EYE, RIGHT_PUPIL
from util.geometry import FRONTAL, Cameras

PUPILS = [RIGHT_PUPIL, LEFT_PUPIL]


def mesh_landmarks(model: MorphableModel, identity: np.ndarray, expression: np.ndarray, cameras: Cameras) -> np.ndarray:
    """The 70 landmarks of fitted or driven meshes: float64 [N, 70, 2], pixels."""
    return cameras.project(model.landmarks70(identity, expression))[..., :2].astype(np.float64)


def into_head(offsets: np.ndarray, cameras: Cameras) -> np.ndarray:
    """Offsets in the image [N, P, 2] (pixels) as offsets in the head's axes [N, P, 3] (model units), within the image plane."""
    return offsets @ cameras.rotation[:, :2] / cameras.scale[:, None, None]


def out_of_head(offsets: np.ndarray, cameras: Cameras) -> np.ndarray:
    """The inverse of `into_head` for cameras of the same rotation: offsets [N, P, 3] -> [N, P, 2]."""
    return offsets @ np.swapaxes(cameras.rotation[:, :2], 1, 2) * cameras.scale[:, None, None]


def frontal(landmarks: np.ndarray, cameras: Cameras) -> np.ndarray:
    """Landmarks [N, P, 2] (pixels) seen from the front, in model units with y down, all taken for points of one plane.

    For measuring: a head in profile (turned by 90 degrees) has no such view.
    """
    flat = cameras.scale[:, None, None] * (cameras.rotation @ FRONTAL)[:, :2, :2]
    return (landmarks - cameras.translation[:, None, :2]) @ np.swapaxes(np.linalg.inv(flat), 1, 2)


def in_eyes(landmarks: np.ndarray) -> np.ndarray:
    """The right and the left pupil from the middle between the corners of their eye: landmarks [N, 70, 2] -> [N, 2, 2]."""
    outer, inner = ([eye.start + k for eye in (RIGHT_EYE, LEFT_EYE)] for k in (0, 3))
    return landmarks[:, PUPILS] - (landmarks[:, outer] + landmarks[:, inner]) / 2


def gaze(model: MorphableModel, identity: np.ndarray, seen: Person | Driven) -> np.ndarray:
    """Where the right and the left pupil are in their eye, from the front: [N, 2, 2], model units, x right, y down.

    Pupils lie deeper than the corners of their eye, so a turn of the head moves them as a glance does. The mesh knows how deep; what
    was seen beyond the mesh is taken for a point of the image plane.
    """
    straight = Cameras(np.ones(len(seen.cameras)), np.tile(FRONTAL, (len(seen.cameras), 1, 1)), np.zeros((len(seen.cameras), 3)))
    mesh = [in_eyes(mesh_landmarks(model, identity, seen.expression, c)) for c in (seen.cameras, straight)]
    return mesh[1] + into_head(in_eyes(seen.landmarks) - mesh[0], seen.cameras)[..., :2] * [1, -1]


def middles_of_eyes(landmarks: np.ndarray) -> np.ndarray:
    """The means of the right and the left eye's outline: [N, 70, C] -> [N, 2, C]."""
    both = landmarks[:, RIGHT_EYE.start : LEFT_EYE.stop]
    return both.reshape(len(both), 2, -1, both.shape[2]).mean(2)


def uncross_lids(landmarks: np.ndarray) -> np.ndarray:
    """Landmarks [N, 70, 2] in which no upper lid lies below the lower one: such pairs meet half way."""
    out, first = landmarks.copy(), np.array([RIGHT_EYE.start, LEFT_EYE.start])
    upper, lower = first[:, None] + [1, 2], first[:, None] + [5, 4]
    across = out[:, first + 3] - out[:, first]  # [N, 2, 2]
    down = across[..., ::-1] * [-1, 1] / np.maximum(np.linalg.norm(across, axis=2), 1e-9)[..., None]
    down = down[:, :, None]
    overlap = np.maximum(0, -((out[:, lower] - out[:, upper]) * down).sum(3))[..., None] * down / 2  # [N, 2, 2, 2]: eyes, pairs of points
    out[:, upper] -= overlap
    out[:, lower] += overlap
    return out
