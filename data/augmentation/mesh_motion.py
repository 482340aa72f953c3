"""Where the pixels of a changed face come from: from the face model's mesh in the frame as it was filmed, and in the changed one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import cv2
import numpy as np

from data.augmentation.grid import grid_points, nearest
from data.augmentation.head_motion import HeadMotion
from util.compiled import compiled
from util.face.appearance import MouthParts
from util.face.landmarks import LEFT_EYE, MOUTH, RIGHT_EYE, mouth_opening
from util.geometry import Cameras
from util.numeric import smoothstep

_REACH = 0.08  # of the image's side: how far beyond the mesh's edge what is there goes with it
_RIM = 0.016  # of the image's side: so near to its edge the mesh is seen too much from the side to be followed
_STEEP = 0.5  # pixels by which the motion may change over a pixel
_SMOOTH = 0.016  # of the image's side, either way: reach of the box that blurs what is carried on, twice
_OPEN = 0.012  # of the image's side: lips as far apart show the mouth's inside
_WIDER = 1.5  # as much wider than filmed a mouth may open before its inside is painted
_EXACT = 0.025  # of the image's side, around mouth and eyes


class HeadMesh(Protocol):
    """The face model of one person, drawn at the size of the stored crops."""

    names: tuple[str, ...]  # of the K expression shapes
    bounds: np.ndarray  # float32 [K, 2]
    triangles: np.ndarray  # int32 [F, 3]
    size: int  # side of the crops, pixels
    mouth: MouthParts

    def vertices(self, expression: np.ndarray, cameras: Cameras) -> np.ndarray:
        """In pixels, z away from the camera: float32 [N, V, 3] of expressions [N, K]."""

    def landmarks(self, expression: np.ndarray, cameras: Cameras) -> np.ndarray:
        """The 70 landmarks, with their depth: float64 [N, 70, 3] in pixels."""

    def draw_ids(self, vertices: np.ndarray) -> np.ndarray:
        """The triangle seen at each pixel, int32 [H, H], -1 for none, of vertices [V, 3]."""

    def paint(self, ids: np.ndarray) -> np.ndarray:
        """The NMFC image, uint8 [H, H, 3]."""


@dataclass(frozen=True)
class Fit:
    """What the face model found in N frames."""

    expression: np.ndarray  # float64 [N, K]
    cameras: Cameras  # in pixels of the stored crops

    def __getitem__(self, part: slice | np.ndarray) -> Fit:
        return Fit(self.expression[part], self.cameras[part])


@dataclass(frozen=True)
class ChangedMesh:
    """N frames with the mesh in another pose and expression."""

    nmfcs: np.ndarray  # uint8 [N, H, H, 3]
    moved: np.ndarray  # float64 [N, 70, 2]: by how much the landmarks are elsewhere, in parts of the image's side
    # float32 [M, g, g, 4] of the last M frames: where what is seen at the middle of a cell was as filmed, less that place, x and y in parts
    # of the side; and how far that holds: 1 on the mesh, 0 away from it;
    # and 1 at mouth and eyes, which show what was not seen
    sources: np.ndarray


def moved_cameras(cameras: Cameras, motion: HeadMotion, centre: np.ndarray, size: int) -> Cameras:
    """The cameras of N frames that see the head as `motion` moves it.

    centre: [3] in pixels, the point of the head about which it turns. size: side of the frames, pixels.
    """
    angle = float(np.linalg.norm(motion.turn))
    across, near = np.r_[motion.turn / max(angle, 1e-9), 0.0], np.array([0.0, 0.0, -1.0])
    turn = np.eye(3) + (np.cos(angle) - 1) * (np.outer(across, across) + np.outer(near, near))
    turn += np.sin(angle) * (np.outer(across, near) - np.outer(near, across))
    scale = float(np.sqrt(np.linalg.det(motion.affine[:, :2])))
    flat = np.eye(3)
    flat[:2, :2] = motion.affine[:, :2] / scale
    rotation = flat @ turn
    shift = centre + np.r_[motion.affine[:, 2] * size, 0.0]
    return Cameras(cameras.scale * scale, rotation @ cameras.rotation, scale * (cameras.translation - centre) @ rotation.T + shift)


def head_directions(cameras: Cameras) -> np.ndarray:
    """Where the head looks in N frames: float64 [N, 2], to the right and down in the picture, sines of the angles; 0 into the camera."""
    return cameras.rotation[:, :2, 2]


def change_mesh(mesh: HeadMesh, fit: Fit, expression: np.ndarray, motion: HeadMotion, fade: np.ndarray, count: int) -> ChangedMesh:
    """Draw N frames with other expressions [N, K] and the head moved.

    fade: float32 [M, G, G] of the last M frames, how far what they show follows the head; the others are drawn only.
    count: cells a side of the sources.
    """
    size, own = mesh.size, slice(len(expression) - len(fade), None)
    before = mesh.landmarks(fit.expression, fit.cameras)
    cameras = moved_cameras(fit.cameras, motion, before.mean((0, 1)), size)
    moved = (mesh.landmarks(expression, cameras) - before)[..., :2] / size
    # in one call: the model's shapes, 16 MB that no cache holds, are read once for both
    both = mesh.vertices(np.concatenate([expression, fit.expression[own]]), cameras.followed_by(fit.cameras[own]))
    drawn, filmed = both[: len(expression)], both[len(expression) :]
    ids = [mesh.draw_ids(vertices) for vertices in drawn]
    at = grid_points(size, count)[0, :, 0].astype(np.int64)  # the pixel in the middle of each cell
    sources, found = np.empty((len(fade), count, count, 4), np.float32), np.empty((count, count, 3), np.float32)
    filmed_points, points = before[own, :, :2], before[own, :, :2] + moved[own] * size
    filmed_gaps, gaps = mouth_opening(filmed_points), mouth_opening(points)
    for i, seen in enumerate(ids[own]):
        _source_function()(seen, at, drawn[own][i], filmed[i], mesh.triangles, found)
        exact, loose = _exact(points[i] * (count / size) - 0.5, count), np.zeros((count, count), np.uint8)
        if filmed_gaps[i] > max(_OPEN * size, gaps[i] / _WIDER):
            # what was filmed of the mouth's inside goes with the lips: it is truer than what is painted
            shown = seen[np.ix_(at, at)]
            inside = (shown >= 0) & (mesh.mouth.parts[shown] > 0)
            loose = cv2.dilate(inside.astype(np.uint8), _box(_RIM * count))
            exact &= 1 - loose
        x, y, weight = _extend(found, fade[i], exact, loose, size)
        cv2.merge([x / size, y / size, weight, exact.astype(np.float32)], sources[i])
    return ChangedMesh(np.stack([mesh.paint(x) for x in ids]), moved, sources)


def _exact(landmarks: np.ndarray, count: int) -> np.ndarray:
    """Mouth and eyes, uint8 [count, count], 1 there; of landmarks [70, 2] in cells."""
    exact = np.zeros((count, count), np.uint8)
    for part in (MOUTH, RIGHT_EYE, LEFT_EYE):
        cv2.fillConvexPoly(exact, cv2.convexHull(landmarks[part].round().astype(np.int32)), 1)
    return cv2.dilate(exact, _box(_EXACT * count))


def _box(reach: float) -> np.ndarray:
    """A square of ones that reaches so far from its middle."""
    return np.ones((2 * round(reach) + 1,) * 2, np.uint8)


def _extend(sources: np.ndarray, fade: np.ndarray, exact: np.ndarray, loose: np.ndarray, size: int) -> list[np.ndarray]:
    """Carry the mesh's motion some way beyond its edge, and let the weight fade with distance and along the neck.

    At the mesh's edge, and where one part of it hides another, the motion changes so fast that the picture would tear: there, but not at
    mouth and eyes, the picture is stretched instead.
    sources: float32 [g, g, 3], motion in pixels, and 1 on the mesh, else 0. exact: uint8 [g, g], 1 at mouth and eyes.
    loose: uint8 [g, g], 1 where the mesh's motion is stretched over as well.
    Returns: motion x and y and weight, each float32 [g, g]. (Planes, for NumPy is slow on pairs.)
    """
    count, (*motion, shown) = len(sources), cv2.split(sources)
    shown = shown.astype(np.uint8)
    sure = cv2.erode(shown, _box(_RIM * count))
    for x in motion:
        sure &= cv2.dilate(x, _box(1)) - cv2.erode(x, _box(1)) < 2 * _STEEP * size / count
    sure = shown & (1 - loose) & (sure | exact)
    if not sure.any():
        return [*motion, np.zeros_like(motion[0])]
    reach = _REACH * count
    away, places = nearest(sure)
    near = away < 2 * reach  # farther than is needed: what is blurred has neighbours

    def blurred(x: np.ndarray) -> np.ndarray:
        box = _box(_SMOOTH * count).shape
        return cv2.blur(cv2.blur(x, box), box)

    near = near.astype(np.float32)
    around = np.maximum(blurred(near), 1e-6)
    kept = np.maximum(exact & shown, np.clip(2 * blurred(sure.astype(np.float32)) - 1, 0, 1))
    for i, x in enumerate(motion):
        x = x.ravel()[places]
        smooth = blurred(x * near) / around
        motion[i] = smooth + kept * (x - smooth)
    step, cells = size / count, np.arange(count, dtype=np.float32) + 0.5
    on_grid = [(x / step + at) * (len(fade) / count) - 0.5 for x, at in zip(motion, (cells[None], cells[:, None]))]
    follows = cv2.remap(fade, *on_grid, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    away = cv2.distanceTransform(1 - shown, cv2.DIST_L2, 5)
    return [*motion, follows * smoothstep(np.maximum(1 - away / reach, 0))]


@lru_cache(maxsize=1)
def _source_function():
    def find_sources(ids, at, drawn, filmed, triangles, sources):
        """Fill sources [g, g, 3]: of the middles of the cells, which lie in the pixels at[row], at[column] of ids [H, H] or at their edge,
        by barycentric weights in the drawn triangle."""
        cell = len(ids) / len(at)
        for row in range(len(at)):
            for column in range(len(at)):
                face = ids[at[row], at[column]]
                sources[row, column, 0] = sources[row, column, 1] = sources[row, column, 2] = 0
                if face < 0:
                    continue
                a, b, c = triangles[face, 0], triangles[face, 1], triangles[face, 2]
                x, y = (column + 0.5) * cell, (row + 0.5) * cell
                bx, by = drawn[b, 0] - drawn[a, 0], drawn[b, 1] - drawn[a, 1]
                cx, cy = drawn[c, 0] - drawn[a, 0], drawn[c, 1] - drawn[a, 1]
                px, py = x - drawn[a, 0], y - drawn[a, 1]
                area = bx * cy - by * cx
                second = third = 1 / 3
                if abs(area) > 1e-6:
                    second = min(max((px * cy - py * cx) / area, 0.0), 1.0)
                    third = min(max((bx * py - by * px) / area, 0.0), 1.0 - second)
                first = 1 - second - third
                for axis in range(2):
                    there = first * filmed[a, axis] + second * filmed[b, axis] + third * filmed[c, axis]
                    sources[row, column, axis] = there - first * drawn[a, axis] - second * drawn[b, axis] - third * drawn[c, axis]
                sources[row, column, 2] = 1

    return compiled(find_sources)
