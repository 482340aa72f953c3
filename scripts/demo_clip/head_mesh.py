"""The triangle mesh over the portrait's head, and smooth interpolation on it."""

from __future__ import annotations

import cv2
import numpy as np

from preprocessing.face_models.dense_points import SKIN
from scripts.demo_clip.contours import LOWER_LIDS, LOWER_LIP, UPPER_LIDS, UPPER_LIP
from scripts.demo_clip.images import disc
from scripts.demo_clip.portrait import CROP, Portrait


class HeadMesh:
    """A planar mesh over the head in the portrait, cut open at mouth and eyes; its first points are the 468 of the face.

    points: [V, 2] photo pixels. triangles: int32 [F, 3].
    """

    def __init__(self, portrait: Portrait) -> None:
        from scipy.spatial import Delaunay, cKDTree

        face = portrait.landmarks[:SKIN, :2]
        contours = []
        for contour in (UPPER_LIP, LOWER_LIP, *UPPER_LIDS, *LOWER_LIDS):
            p = face[list(contour)]
            contours += [p[:-1] + (p[1:] - p[:-1]) * t for t in (1 / 3, 2 / 3)]
        fixed = np.concatenate([face, *contours])
        # A grid over the rest, finer in the face
        near = cv2.dilate((portrait.person * portrait.head_area > 0.01).astype(np.uint8), disc(3 * portrait.zoom))
        low, high = face.min(0) - 3, face.max(0) + 3
        fine, coarse = self._grid(2.0), self._grid(4.0)
        grid = np.concatenate([fine[self._within(fine, low, high)], coarse[~self._within(coarse, low, high)]])
        grid = grid[self._at(near, grid, portrait.zoom) > 0]
        grid = grid[cKDTree(fixed).query(grid)[0] > 1.2]
        grid = grid[~self._in_holes(portrait, grid)]
        self.points = np.concatenate([fixed, grid])
        triangles = Delaunay(self.points).simplices
        corners = self.points[triangles]
        sides = np.linalg.norm(corners - np.roll(corners, 1, 1), axis=-1).max(1)
        self.triangles = triangles[~self._in_holes(portrait, corners.mean(1)) & (sides < 9)].astype(np.int32)
        self._bending = self._bending_energy()

    @staticmethod
    def _grid(step: float) -> np.ndarray:
        rows = np.arange(step / 2, CROP[2], step)
        points = np.stack(np.meshgrid(rows, rows), -1)
        points[:, 1::2, 1] += step / 4  # keeps Delaunay's triangles well-shaped and unambiguous
        return points.reshape(-1, 2)

    @staticmethod
    def _within(points: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        return ((points > low) & (points < high)).all(1)

    @staticmethod
    def _at(image: np.ndarray, points: np.ndarray, zoom: float) -> np.ndarray:
        column, row = np.clip((points * zoom).astype(int), 0, len(image) - 1).T
        return image[row, column]

    def sample(self, image: np.ndarray, portrait: Portrait) -> np.ndarray:
        """Values of an image [side, side] at the mesh's points, [V]."""
        return self._at(image, self.points, portrait.zoom)

    @staticmethod
    def _in_holes(portrait: Portrait, points: np.ndarray) -> np.ndarray:
        outlines = [hole.astype(np.float32) for hole in portrait.holes]
        return np.array([any(cv2.pointPolygonTest(o, (float(x), float(y)), False) > 0 for o in outlines) for x, y in points])

    def _bending_energy(self):
        """Sparse [V, V]: squared Laplacian, so that interpolation is smooth along the skin but not across its openings."""
        import scipy.sparse as sp

        a, b = np.concatenate([self.triangles[:, [0, 1]], self.triangles[:, [1, 2]], self.triangles[:, [2, 0]]]).T
        weight = 1 / np.linalg.norm(self.points[a] - self.points[b], axis=1)
        count = len(self.points)
        adjacency = sp.coo_matrix((np.r_[weight, weight], (np.r_[a, b], np.r_[b, a])), shape=(count, count)).tocsr()
        degree = np.maximum(np.asarray(adjacency.sum(1)).ravel(), 1e-9)
        laplacian = sp.diags(1 / degree) @ adjacency - sp.identity(count)
        return (laplacian.T @ laplacian).tocsc()

    def spread(self, ids: np.ndarray, values: np.ndarray, trust: np.ndarray | float = 1.0) -> np.ndarray:
        """The smoothest values [V, C] that come near `values` [n, C] at the points `ids` [n]: biharmonic interpolation."""
        import scipy.sparse as sp
        from scipy.sparse.linalg import splu

        weight = np.zeros(len(self.points))
        weight[ids] = trust
        right = np.zeros((len(self.points), values.shape[1]))
        right[ids] = values * weight[ids][:, None]
        return splu((self._bending + sp.diags(weight + 1e-9)).tocsc()).solve(right)
