"""Where the pixels of a changed face come from: from the face model's mesh in the frame as it was filmed, and in the changed one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import cv2
import numpy as np

from data.augmentation.head_geometry import grid_points
from data.augmentation.head_motion import HeadMotion
from util.compiled import compiled
from util.face.appearance import MouthParts
from util.geometry import Cameras
from util.numeric import smoothstep

_REACH = 0.08  # of the image's side: how far beyond the mesh's edge what is there goes with it


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
    # float32 [M, g, g, 3] of the last M frames: where what is seen at the middle of a cell was as filmed, less that place, x and y in parts
    # of the side; and how far that holds: 1 on the mesh, 0 away from it
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
    places = grid_points(size, count)
    at = places[0, :, 0].astype(np.int64)  # the pixel in the middle of each cell
    sources = np.empty((len(fade), count, count, 3), np.float32)
    for found, seen, vertices, then, follows in zip(sources, ids[own], drawn[own], filmed, fade):
        _source_function()(seen, at, vertices, then, mesh.triangles, found)
        _extend(found, follows, places, size)
    sources[..., :2] /= size
    return ChangedMesh(np.stack([mesh.paint(x) for x in ids]), moved, sources)


def _extend(sources: np.ndarray, fade: np.ndarray, places: np.ndarray, size: int) -> None:
    """Carry the mesh's motion, in pixels, some way beyond its edge, and let the weight fade with distance and along the neck; in place.

    places: the middles of the cells, in pixels.
    """
    shown = sources[..., 2] > 0
    if not shown.any():
        return
    reach = _REACH * len(sources)
    away, labels = cv2.distanceTransformWithLabels((~shown).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    cells, labels = sources.reshape(-1, 3), labels.ravel()
    on_mesh, beyond = np.flatnonzero(shown), np.flatnonzero((away > 0) & (away < reach))
    of_label = np.empty(labels.max() + 1, np.int64)
    of_label[labels[on_mesh]] = on_mesh
    cells[beyond] = cells[of_label[labels[beyond]]]
    on_grid = (places + sources[..., :2]) * (fade.shape[0] / size) - 0.5
    follows = cv2.remap(fade, on_grid, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    sources[..., 2] = follows * smoothstep(1 - away / reach)


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
