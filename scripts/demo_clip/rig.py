"""The rig of the portrait's head: where an expression moves the points of its mesh."""

from __future__ import annotations

import cv2
import numpy as np

from preprocessing.face_models.dense_points import SKIN
from scripts.demo_clip.contours import EYE_AREAS, EYE_CORNERS, JAW, LOWER_LIDS, LOWER_LIP, MOUTH_AREA, OVAL, SIDES, UPPER_LIDS, UPPER_LIP
from scripts.demo_clip.head_mesh import HeadMesh
from scripts.demo_clip.portrait import Portrait
from scripts.demo_clip.portrait_fit import Fit
from util.numeric import smoothstep

LIP_OVERLAP = 0.5  # of closed lips and lids: their edges are soft over that length
EARS_CM = 8.5  # behind the corners of the eyes; the head's outline lies there, too


class Rig:
    """Positions of the head mesh for expressions: [V, 3] photo pixels, head as in the portrait."""

    def __init__(self, portrait: Portrait, fit: Fit, mesh: HeadMesh) -> None:
        self.mesh, self.fit = mesh, fit
        face = portrait.landmarks[:SKIN, :2]
        oval = portrait.landmarks[list(OVAL), :2].astype(np.float32)
        outside = -np.array([cv2.pointPolygonTest(oval, (float(x), float(y)), True) for x, y in mesh.points])
        above_jaw = mesh.points[:, 1] < face[JAW[0], 1]

        # Depth: what the detector sees, and a flat dome for the hair whose rim lies as deep as the ears.
        depth = portrait.landmarks[:SKIN, 2]
        self.ear_depth = depth[list(EYE_CORNERS)].mean() + EARS_CM * fit.scale
        hair = np.flatnonzero((outside > 4) & above_jaw)
        inward = mesh.sample(portrait.distance(1 - portrait.person * portrait.head_area), portrait)[hair]
        dome = self.ear_depth - 28 * (1 - (1 - np.clip(inward / 40, 0, 1)) ** 2)
        # The face's outline follows less exactly, lest it folds over when the head turns.
        trust = np.r_[0.12 + 3 * smoothstep(-outside[:SKIN], 4, 14), np.where(inward < 2, 0.05, 0.002)]
        depth = mesh.spread(np.r_[:SKIN, hair], np.r_[depth, dome][:, None], trust)
        self.base = np.concatenate([mesh.points, depth], 1)

        # Expression shapes: [K, V, 3]; the hair stays.
        self.names = fit.model.expression_names
        self._still = np.flatnonzero((outside > 10) & (mesh.points[:, 1] < face[JAW[0], 1] + 3))
        shapes = fit.scale * fit.model.landmark_model[2][:, :SKIN] @ fit.rotation.T
        count = len(shapes)
        known = np.concatenate([shapes.transpose(1, 0, 2).reshape(SKIN, -1), np.zeros((len(self._still), 3 * count))])
        spread = mesh.spread(np.r_[:SKIN, self._still], known)
        self.shapes = spread.reshape(-1, count, 3).transpose(1, 0, 2)

        self._close_lids()
        # At rest the lips of the model's person meet; make those of the portrait do so as well.
        gap = self._gap(self.weights({}), UPPER_LIP, LOWER_LIP) + [0, LIP_OVERLAP]
        self.seal = self._bring_together(UPPER_LIP, LOWER_LIP, 0.5 * gap, -0.5 * gap, MOUTH_AREA)
        single = np.eye(len(UPPER_LIP) - 2)[..., None] * [0.0, 1.0]
        # Where lips or lids overlap a little, the lower lip and the upper lids are seen: nearer by some pixels.
        nearer, same = np.full((len(UPPER_LIP) - 2, 1), -2.0), np.zeros((len(UPPER_LIP) - 2, 1))
        self.order = self._bring_together(UPPER_LIP, LOWER_LIP, same, nearer, MOUTH_AREA)[:, 0]
        for upper, lower, area in zip(UPPER_LIDS, LOWER_LIDS, EYE_AREAS):
            self.order += self._bring_together(upper, lower, nearer[2:], same[2:], area)[:, 0]
        self._touch = np.stack([self._bring_together(UPPER_LIP, LOWER_LIP, 0.5 * g, -0.5 * g, MOUTH_AREA) for g in single])

    def weights(self, expression: dict[str, float]) -> np.ndarray:
        """Expression vector [K] for named weights; a name without side means both; brows and lids otherwise as photographed."""
        weights = np.zeros(len(self.names))
        for i, name in enumerate(self.names):
            base, _, side = name.rpartition("_")
            kept = name.startswith(("brow", "eyeSquint", "cheekSquint", "noseSneer"))
            value = expression.get(name, expression.get(base, 0.0) if side in ("L", "R") else 0.0)
            weights[i] = value + (0.7 * self.fit.expression[i] if kept else 0)
        return weights

    def pose(self, weights: np.ndarray) -> np.ndarray:
        """Points [V, 3] for an expression vector [K]; lips never pass through each other."""
        points = self.base + np.einsum("k,kvc->vc", weights - self.fit.expression, self.shapes)
        points[:, :2] += self.seal
        upper, lower = list(UPPER_LIP[1:-1]), list(LOWER_LIP[1:-1])
        for _ in range(2):  # the pairs move one another a little
            overlap = np.minimum(points[lower, 1] - points[upper, 1] + LIP_OVERLAP, 0)
            points[:, :2] += np.einsum("k,kvc->vc", overlap, self._touch)
        return points

    def _gap(self, weights: np.ndarray, upper: tuple[int, ...], lower: tuple[int, ...]) -> np.ndarray:
        """Vectors [n - 2, 2] from upper to lower contour, without their shared corners."""
        points = self.base + np.einsum("k,kvc->vc", weights - self.fit.expression, self.shapes)
        return (points[list(lower)] - points[list(upper)])[1:-1, :2]

    def _bring_together(self, upper, lower, move_upper: np.ndarray, move_lower: np.ndarray, area: frozenset[int]) -> np.ndarray:
        """Moves [V, 2] of the skin when contours move [n - 2, 2]; only the `area` around them gives way."""
        rest = np.array([i for i in range(SKIN) if i not in area] + [upper[0], upper[-1]])
        ids = np.r_[upper[1:-1], lower[1:-1], rest, self._still]
        moves = np.concatenate([move_upper, move_lower, np.zeros((len(rest) + len(self._still), move_upper.shape[1]))])
        return self.mesh.spread(ids, moves, 30.0)

    def _close_lids(self) -> None:
        """Let a full blink close the portrait's eyes exactly: mostly the upper lid comes down, and its edge does not stretch."""
        from scipy.spatial import cKDTree

        for side, upper, lower, area in zip(SIDES, UPPER_LIDS, LOWER_LIDS, EYE_AREAS):
            k = self.names.index(f"eyeBlink_{side}")
            gap = self._gap(self.weights({f"eyeBlink_{side}": 1.0}), upper, lower) + [0, LIP_OVERLAP]
            self.shapes[k, :, :2] += self._bring_together(upper, lower, 0.88 * gap, -0.12 * gap, area)
            along = np.linspace(0, len(upper) - 1, 100)
            edge, edge_move = (
                np.stack([np.interp(along, np.arange(len(upper)), v[list(upper), c]) for c in range(v.shape[1])], 1)
                for v in (self.mesh.points, self.shapes[k])
            )
            middle = (self.mesh.points[list(upper)] + self.mesh.points[list(lower)]) / 2
            distance, nearest = cKDTree(edge).query(self.mesh.points)
            stiff = smoothstep(-distance, -2.6, -1.2) * (self.mesh.points[:, 1] <= np.interp(self.mesh.points[:, 0], *middle.T))
            self.shapes[k] += stiff[:, None] * (edge_move[nearest] - self.shapes[k])
