"""Tells whether two shots show the same person: by the shape of the upper face and the colours of face and hair.

It is made for shots of one recording, in one light, and is no face recognition (no package carries such weights). Of ten real clips, cut
into thirds: of 30 pairs of one clip all are told to be one person, of 405 pairs of different clips 4.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from preprocessing.tracking.tracker import Tracker

SAMPLES = 10  # frames of a shot that are looked at
MAX_SHAPE = 0.7  # distance of the shapes of the upper face, relative to the size of the face
MAX_COLOUR = 6.0  # distance of the colours, CIELAB units
_SIDE = 256  # pixels of a face's cut-out
_UPPER_SHARE = 0.62  # of the mesh's height from the top, which the jaw does not move
_MESH = 468  # points of the mesh without the irises


@dataclass(frozen=True)
class Appearance:
    """What a person looks like in a shot."""

    shape: np.ndarray  # float64 [468, 3], mean of the frames' meshes, moved and turned onto one another; root mean square size 1
    colours: np.ndarray  # float64 [2, 3]: CIELAB of the face and of the area above it


def appearance(frames: Iterable[np.ndarray], boxes: np.ndarray) -> Appearance | None:
    """The appearance of the face with these boxes, [N, 4] px, in frames, uint8 [H, W, 3]; None when it cannot be read in any."""
    meshes, colours = [], []
    with Tracker() as tracker:
        for frame, box in zip(frames, boxes):
            face = _cut_out(frame, box)
            points = tracker.step(face)
            if points is None:
                continue
            meshes.append(mesh_shape(points))
            colours.append(_colours(face, points[:_MESH, :2]))
    if not meshes:
        return None
    return Appearance(usual_shape(meshes), np.median(colours, 0))


def distances(a: Appearance, b: Appearance) -> tuple[float, float]:
    """Of shapes (MAX_SHAPE) and of colours (MAX_COLOUR)."""
    return shape_distance(a.shape, b.shape), float(np.linalg.norm((a.colours - b.colours) * [0.5, 1, 1], axis=1).mean())


def mesh_shape(landmarks: np.ndarray) -> np.ndarray:
    """The mesh of landmarks [478, 3] without place and size: float64 [468, 3], root mean square size 1."""
    mesh = landmarks[:_MESH].astype(np.float64)
    mesh = mesh - mesh.mean(0)
    return mesh / np.sqrt((mesh**2).sum(1).mean())


def usual_shape(meshes: Sequence[np.ndarray]) -> np.ndarray:
    """The median of shapes (`mesh_shape`), moved and turned onto the first."""
    return np.median([_aligned(m, meshes[0]) for m in meshes], 0)


def shape_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Distance of the upper faces of two shapes (`mesh_shape`); the jaw moves."""
    upper = a[:, 1] < np.quantile(a[:, 1], _UPPER_SHARE)
    return float(np.linalg.norm((_aligned(b, a) - a)[upper]))


def same_person(a: Appearance, b: Appearance) -> bool:
    shape, colour = distances(a, b)
    return shape < MAX_SHAPE and colour < MAX_COLOUR


def _cut_out(frame: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The face with as much around it, uint8 [_SIDE, _SIDE, 3]."""
    side = 2.0 * max(box[2] - box[0], box[3] - box[1])
    corner = (box[:2] + box[2:]) / 2 - side / 2
    factor = _SIDE / side
    matrix = np.array([[factor, 0, -corner[0] * factor], [0, factor, -corner[1] * factor]])
    return cv2.warpAffine(frame, matrix, (_SIDE, _SIDE), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE)


def _colours(face: np.ndarray, points: np.ndarray) -> np.ndarray:
    lab = cv2.cvtColor((face / np.float32(255)), cv2.COLOR_RGB2LAB)
    mask = np.zeros(face.shape[:2], np.uint8)
    cv2.fillConvexPoly(mask, cv2.convexHull(points.round().astype(np.int32)), 1)
    (left, top), (right, bottom) = points.min(0).astype(int), points.max(0).astype(int)
    hair = lab[max(0, top - (bottom - top) // 4) : max(1, top), max(0, left) : right].reshape(-1, 3)
    return np.stack([np.median(lab[mask > 0], 0), np.median(hair, 0) if len(hair) else np.zeros(3)])


def _aligned(points: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """Points [N, 3] after the similarity transform that brings them nearest to others (Umeyama 1991)."""
    a, b = points - points.mean(0), onto - onto.mean(0)
    u, s, v = np.linalg.svd(a.T @ b)
    sign = np.array([1, 1, np.sign(np.linalg.det(u @ v))])
    return (s @ sign) / (a**2).sum() * a @ (u * sign) @ v + onto.mean(0)
