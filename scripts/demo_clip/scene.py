"""The built-in demo clip: scikit-image's `astronaut` portrait (Eileen Collins, NASA, public domain) made to move and talk.

The portrait is taken apart into layers, from back to front:

- the plate: the photograph without the head. What the head hid is filled in, and the neck goes on behind the chin;
- the inside of the mouth (the photographed upper teeth, painted lower teeth, tongue and cavity) and the two eyeballs;
- the head: a fine mesh with depth, with holes at the mouth and the eyes, textured with the photograph.

The face model mesh478 is fitted to the portrait. Its expression shapes move the 468 face points of the mesh, and the rest
follows smoothly; so the true head rotation and expression of every frame are known in the model's own terms.

Lengths are in pixels of the CROP of the photograph ("photo pixels") unless a name says otherwise: x right, y down, z away
from the camera.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from preprocessing.face_models.dense_points import LEFT_IRIS, RIGHT_IRIS, SKIN
from preprocessing.face_models.morphable import MorphableModel
from preprocessing.face_models.registry import load_face_model
from preprocessing.tracking.mediapipe_tools import load_solutions, silent_stderr
from scripts.demo_clip.motion import Motion
from util.cli import UserError
from util.numeric import smoothstep

CROP = (90, 0, 280)  # left, top, side of the square of the 512x512 photograph that is used
# Measured in the crop: the neck's outline (its left and right edge and their slant, x per y), and the collar.
NECK = (96.0, 163.3)
NECK_SLANT = 0.16  # of the right edge, upwards; the left one is upright
COLLAR_Y = 186.0
RING_Y = 146.5  # where the suit's ring comes out from behind the jaw, on the left

# Points of the dense mesh, from the picture's left to its right.
UPPER_LIP = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)  # inner contours
LOWER_LIP = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)
UPPER_LIDS = ((33, 246, 161, 160, 159, 158, 157, 173, 133), (362, 398, 384, 385, 386, 387, 388, 466, 263))
LOWER_LIDS = ((33, 7, 163, 144, 145, 153, 154, 155, 133), (362, 382, 381, 380, 374, 373, 390, 249, 263))
JAW = (58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288)
OVAL = (*JAW, 361, 323, 454, 356, 389, 251, 284, 332, 297, 338, 10, 109, 67, 103, 54, 21, 162, 127, 234, 93, 132)
FOLDS = ((129, 203, 206, 216, 212), (358, 423, 426, 436, 432))  # from the wings of the nose past the corners of the mouth
# Around mouth and eyes: what gives way when lips or lids are made to meet.
MOUTH_AREA = frozenset(
    (*UPPER_LIP, *LOWER_LIP, 61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 146, 91, 181, 84, 17, 314, 405, 321, 375)
    + (76, 62, 306, 292, 183, 42, 41, 38, 12, 268, 271, 272, 407, 77, 96, 89, 179, 86, 15, 316, 403, 319, 325)
    + (184, 74, 73, 72, 11, 302, 303, 304, 408, 90, 180, 85, 16, 315, 404, 320, 307)
)
EYE_AREAS = (
    frozenset((*UPPER_LIDS[0], *LOWER_LIDS[0], 130, 247, 30, 29, 27, 28, 56, 190, 243, 112, 26, 22, 23, 24, 110, 25)),
    frozenset((*UPPER_LIDS[1], *LOWER_LIDS[1], 359, 467, 260, 259, 257, 258, 286, 414, 463, 341, 256, 252, 253, 254, 339, 255)),
)
SIDES = "RL"  # of the subject, as the eyes above
EYE_CORNERS = (33, 133, 362, 263)

SHUT_LIPS = np.float32([0.27, 0.13, 0.11])  # colour of the line between them
SHUT_LIDS = np.float32([0.16, 0.10, 0.07])
LIP_OVERLAP = 0.5  # of closed lips and lids: their edges are soft over that length
TEETH_DEPTH = 3.0  # behind the lips
EYEBALL_CM = 1.2  # radius
EARS_CM = 8.5  # behind the corners of the eyes; the head's outline lies there, too


def _blur(image: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), sigma)


def _disc(radius: float) -> np.ndarray:
    size = 2 * round(radius) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))


def fill(image: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Fill the unknown part of an image smoothly from the known one (push-pull, Gortler et al. 1996).

    image: float32 [H, W, 3]; known: [H, W], 0..1 confidence. Returns float32 [H, W, 3].
    """
    height, width = known.shape
    known = known.astype(np.float32)
    if min(height, width) <= 2:
        mean = (image * known[..., None]).sum((0, 1)) / max(float(known.sum()), 1e-6)
        return np.broadcast_to(mean, image.shape).astype(np.float32)
    half = ((width + 1) // 2, (height + 1) // 2)
    weight = cv2.resize(known, half, interpolation=cv2.INTER_AREA)
    coarse = cv2.resize(image * known[..., None], half, interpolation=cv2.INTER_AREA) / np.maximum(weight, 1e-6)[..., None]
    coarse = fill(coarse, np.minimum(weight * 4, 1))
    below = _blur(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR), 1)
    return image * known[..., None] + below * (1 - known[..., None])


def _guided_filter(guide: np.ndarray, mask: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """Make a mask [H, W] follow the edges of a colour image [H, W, 3] (He et al. 2010, colour guide)."""

    def mean(x: np.ndarray) -> np.ndarray:
        return cv2.blur(x, (2 * radius + 1, 2 * radius + 1))

    mean_guide, mean_mask = mean(guide), mean(mask)
    products = np.stack([mean(guide[..., i] * guide[..., j]) for i in range(3) for j in range(3)], -1)
    covariance = products.reshape(*mask.shape, 3, 3) - mean_guide[..., :, None] * mean_guide[..., None, :]
    cross = mean(guide * mask[..., None]) - mean_guide * mean_mask[..., None]
    slope = np.linalg.solve(covariance + epsilon * np.eye(3, dtype=np.float32), cross[..., None])[..., 0]
    offset = mean_mask - (slope * mean_guide).sum(-1)
    return np.clip((mean(slope) * guide).sum(-1) + mean(offset), 0, 1)


@dataclass(frozen=True)
class Fit:
    """The face model fitted to the portrait: point = scale * rotation @ X + translation, in photo pixels."""

    model: MorphableModel
    scale: float  # photo pixels a centimetre
    rotation: np.ndarray  # [3, 3], camera of the project's convention: diag(1, -1, -1) for a frontal face
    expression: np.ndarray  # [K_exp]
    points: np.ndarray  # [478, 3]


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
    points = scale * (mean + np.tensordot(weights, basis, 1)) @ rotation.T + translation
    return Fit(model, float(scale), rotation, expression, points)


@dataclass(frozen=True)
class Portrait:
    """The photograph and what was found in it. Images are float32 RGB 0..1, `side` pixels high and wide."""

    photo: np.ndarray  # [side, side, 3]
    person: np.ndarray  # [side, side] opacity of the person
    landmarks: np.ndarray  # [478, 3], photo pixels

    @property
    def zoom(self) -> float:
        """Pixels of the images a photo pixel."""
        return len(self.photo) / CROP[2]

    def polygon(self, points: np.ndarray) -> np.ndarray:
        """Antialiased mask [side, side] of a polygon [n, 2] of photo pixels."""
        mask = np.zeros(self.person.shape, np.uint8)
        fixed_point = np.round((np.asarray(points) * self.zoom - 0.5) * 16).astype(np.int32)
        cv2.fillPoly(mask, [fixed_point], 255, cv2.LINE_AA, 4)
        return mask.astype(np.float32) / 255

    def distance(self, mask: np.ndarray) -> np.ndarray:
        """Distance [side, side] to a mask, in photo pixels."""
        return cv2.distanceTransform((mask < 0.5).astype(np.uint8), cv2.DIST_L2, 5) / self.zoom

    @cached_property
    def holes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Outlines [n, 2] in photo pixels of the mouth's opening and of both eyes."""
        return tuple(
            np.concatenate([self.landmarks[list(upper), :2], self.landmarks[list(lower)[-2:0:-1], :2]])
            for upper, lower in zip((UPPER_LIP, *UPPER_LIDS), (LOWER_LIP, *LOWER_LIDS))
        )

    @cached_property
    def head_area(self) -> np.ndarray:
        """Mask [side, side] of all that is above the jaw line."""
        jaw = self.landmarks[list(JAW), :2]
        outwards = jaw - jaw.mean(0)
        jaw = jaw + 1.2 * outwards / np.linalg.norm(outwards, axis=1, keepdims=True)  # the contour runs just inside the jaw
        return self.polygon(np.array([(-9, -9), (-9, jaw[0, 1]), *jaw, (CROP[2] + 9, jaw[-1, 1]), (CROP[2] + 9, -9)]))


def load_portrait(side: int) -> Portrait:
    """Crop and enlarge the photograph, find the face in it and separate the person from the background.

    Raises: UserError when scikit-image or MediaPipe lack what comes with their packages.
    """
    import skimage.data

    photo = skimage.data.astronaut()  # in the package itself, not downloaded
    left, top, crop = CROP
    photo = photo[top : top + crop, left : left + crop]

    def enlarged(size: int) -> np.ndarray:
        return cv2.resize(photo, (size, size), interpolation=cv2.INTER_LANCZOS4)

    solutions = load_solutions()
    with silent_stderr():
        found = []
        with solutions.face_mesh.FaceMesh(static_image_mode=True, refine_landmarks=True) as mesh:
            for size in (512, 768, 1024):  # the mean of some sizes is more exact than one
                result = mesh.process(enlarged(size))
                if not result.multi_face_landmarks:
                    raise UserError(
                        "MediaPipe does not find the face of scikit-image's astronaut; install mediapipe and scikit-image again"
                    )
                found.append([(p.x, p.y, p.z) for p in result.multi_face_landmarks[0].landmark])
        with solutions.selfie_segmentation.SelfieSegmentation(0) as segmentation:
            person = segmentation.process(enlarged(512)).segmentation_mask
    person = _guided_filter(enlarged(512).astype(np.float32) / 255, (person > 0.5).astype(np.float32), 6, 2e-4)
    person = np.clip((cv2.resize(person, (side, side), interpolation=cv2.INTER_CUBIC) - 0.06) / 0.88, 0, 1)
    large = enlarged(side).astype(np.float32) / 255
    zoom = side / crop
    large += 0.35 * (large - _blur(large, 0.8 * zoom))  # enlarging has softened it
    return Portrait(np.clip(large, 0, 1), person, np.mean(found, 0) * crop)


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
        near = cv2.dilate((portrait.person * portrait.head_area > 0.01).astype(np.uint8), _disc(3 * portrait.zoom))
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


class Eye:
    """An eyeball, seen through the hole between the lids: the photographed white, and an iris in its colours that can move."""

    def __init__(self, portrait: Portrait, index: int) -> None:
        self.zoom = portrait.zoom
        centre, *ring = portrait.landmarks[list((RIGHT_IRIS, LEFT_IRIS)[index]), :2]
        self.centre, self.radius = centre, 0.98 * np.linalg.norm(np.array(ring) - centre, axis=1).mean()
        inside = cv2.erode((portrait.polygon(portrait.holes[1 + index]) > 0.99).astype(np.uint8), _disc(0.5 * self.zoom))
        disc = portrait.polygon(centre + 1.15 * self.radius * np.stack([np.cos(a := np.linspace(0, 2 * np.pi, 40)), np.sin(a)], 1))
        white = fill(portrait.photo, inside * (1 - disc))
        self.white = white + 0.4 * (white.mean(-1, keepdims=True) * 1.10 - white)  # so little of it is seen that skin tints it

    def colour(self, x: np.ndarray, y: np.ndarray, move: np.ndarray) -> np.ndarray:
        """Colours [..., 3] at photo pixels x, y when the iris has moved by `move` [2]."""
        white = _look_up(self.white, x, y, self.zoom)
        r = np.hypot(x - self.centre[0] - move[0], y - self.centre[1] - move[1]) / self.radius
        inner, outer, limbus = (np.float32(c) / 255 for c in ((74, 47, 21), (68, 45, 24), (56, 43, 33)))
        iris = inner + (outer - inner) * smoothstep(r, 0.45, 0.8)[..., None]
        iris = iris + (limbus - iris) * smoothstep(r, 0.75, 1.0)[..., None]
        iris = iris + (np.float32([0.07, 0.04, 0.03]) - iris) * smoothstep(-r, -0.66, -0.34)[..., None]  # pupil
        colour = white + (iris - white) * smoothstep(-r, -1.15, -0.85)[..., None]
        # The reflection of the lamp stays where it is while the iris turns below it.
        lamp = self.centre + [-0.9, -0.8] + 0.45 * move
        glint = np.exp(-((x - lamp[0]) ** 2 + (y - lamp[1]) ** 2) / (2 * 0.75**2))
        return colour + (0.92 - colour) * 0.9 * glint[..., None].astype(np.float32)


class Mouth:
    """The inside of the mouth, seen through the hole between the lips."""

    def __init__(self, portrait: Portrait) -> None:
        self.zoom = portrait.zoom
        inside = cv2.erode((portrait.polygon(portrait.holes[0]) > 0.99).astype(np.uint8), _disc(0.5 * self.zoom))
        self.teeth = fill(portrait.photo, inside)
        lower = portrait.landmarks[list(LOWER_LIP), :2]
        upper = portrait.landmarks[list(UPPER_LIP), :2]
        self.centre = (lower[5] + upper[5]) / 2
        self.half_width = np.linalg.norm(lower[-1] - lower[0]) / 2
        self.edge = lower  # the photographed smile ends where the teeth do

    def colour(self, x: np.ndarray, y: np.ndarray, jaw: float) -> np.ndarray:
        """Colours [..., 3] at photo pixels x, y when the jaw has come down by `jaw` photo pixels."""
        across = (x - self.centre[0]) / self.half_width
        colour = np.full((*x.shape, 3), (0.17, 0.065, 0.055), np.float32)
        low = self.edge[5, 1] + jaw
        height = 3.0 + 0.3 * max(jaw, 0)
        tongue = np.exp(-(((across / 0.6) ** 2 + ((y - low) / height) ** 2) ** 1.5))[..., None]
        shine = np.exp(-((across / 0.35) ** 2 + ((y - low + 0.55 * height) / (0.3 * height)) ** 2))[..., None]
        colour += (np.float32([0.60, 0.29, 0.28]) + 0.10 * shine - colour) * tongue
        top = low - 1.3 + 2.2 * across**2  # lower teeth: a shallow arc, shaded towards the sides
        row = smoothstep(y - top, -0.5, 0.5) * np.exp(-((across / 0.5) ** 6))
        gaps = 1 - 0.22 * np.exp(-(((((x - self.centre[0]) / 3.1) % 1 - 0.5) / 0.13) ** 2))
        colour += (np.float32([0.60, 0.53, 0.45]) * gaps[..., None] - colour) * row[..., None]
        bottom = np.interp(x, *self.edge.T) - 0.1
        row = smoothstep(bottom - y, -0.6, 0.6) * smoothstep(-np.abs(across), -0.98, -0.80)
        return colour + (_look_up(self.teeth, x, y, self.zoom) - colour) * row[..., None]


def _look_up(image: np.ndarray, x: np.ndarray, y: np.ndarray, zoom: float) -> np.ndarray:
    """Image values at photo pixels x, y [h, w] (pixel corners count from 0)."""
    return cv2.remap(
        image, (x * zoom - 0.5).astype(np.float32), (y * zoom - 0.5).astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )


def head_rotation(rotation_deg: np.ndarray) -> np.ndarray:
    """Rotation [3, 3] in camera axes for pitch (chin up +), yaw (to the picture's right +) and roll (clockwise +) in degrees."""
    pitch, yaw, roll = np.deg2rad(rotation_deg)
    about_x = np.array([[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]])
    about_y = np.array([[np.cos(yaw), 0, -np.sin(yaw)], [0, 1, 0], [np.sin(yaw), 0, np.cos(yaw)]])
    about_z = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


@dataclass(frozen=True)
class Frame:
    image: np.ndarray  # uint8 [size, size, 3] RGB
    points: np.ndarray  # float32 [468, 3]: true positions of the detector's points, pixels of the image


class DemoScene:
    """The portrait ready to be moved. size: side of the pictures in pixels."""

    def __init__(self, size: int = 512) -> None:
        from preprocessing.render.cpu import CpuRenderer

        self.size = size
        self.portrait = load_portrait(2 * size)
        self.fit = fit_portrait(self.portrait.landmarks)
        self.mesh = HeadMesh(self.portrait)
        self.rig = Rig(self.portrait, self.fit, self.mesh)
        self.eyes = [Eye(self.portrait, i) for i in range(2)]
        self.mouth = Mouth(self.portrait)
        self.pivot = np.array([*self.portrait.landmarks[[234, 454, 132, 361], :2].mean(0) + [0, 6], self.rig.ear_depth - 5])
        self._zoom = size / CROP[2]
        self._rasteriser = CpuRenderer(self.mesh.triangles, np.zeros(self.mesh.triangles.shape, np.uint8), (size, size))
        self._grid = np.mgrid[:size, :size][::-1].astype(np.float32) + 0.5  # x, y of the pixels' centres
        self._make_head()
        self._make_plate()

    def _make_head(self) -> None:
        """Texture of the head, RGBA with colours multiplied by opacity, and what expressions change of it."""
        p = self.portrait
        opacity = p.person * _blur(p.head_area, 0.5 * p.zoom)
        self.head_opacity = opacity
        for outline, width in zip(p.holes, (0.7, 0.5, 0.5)):  # soft edges; the mesh ends at the outline
            opacity = opacity * np.clip(p.distance(p.polygon(outline)) / width, 0, 1)
        inner = cv2.erode((self.head_opacity > 0.97).astype(np.uint8), _disc(0.8 * p.zoom))
        colour = fill(p.photo, inner)  # no background shines through the rim
        self._head = np.dstack([colour * opacity[..., None], opacity])
        self._changes = []  # (rows and columns, change of the texture, curve: weights by name -> 0..1)

        def add(mask: np.ndarray, changed: np.ndarray, curve) -> None:
            rows, columns = np.flatnonzero(mask.max(1) > 0.01), np.flatnonzero(mask.max(0) > 0.01)
            box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
            change = ((changed - colour) * (mask * opacity)[..., None])[box]
            self._changes.append((box, change.astype(np.float32), curve))

        # The folds of the photographed smile flatten without it.
        lines = np.zeros(opacity.shape, np.uint8)
        for fold in FOLDS:
            cv2.polylines(lines, [np.round(p.landmarks[list(fold), :2] * p.zoom).astype(np.int32)], False, 255)
        distance = p.distance(lines > 0)
        flat = fill(colour, distance > 3.5)
        add(0.65 * smoothstep(-distance, -4.5, -1.5), flat, lambda w: 1 - min(0.5 * (w["mouthSmile_L"] + w["mouthSmile_R"]) / 0.8, 1))
        # A falling lid shows smooth skin and, along its edge, the lashes.
        for side, upper, lower, outline in zip(SIDES, UPPER_LIDS, LOWER_LIDS, p.holes[1:]):
            contour = p.landmarks[list(upper), :2]
            middle = (contour + p.landmarks[list(lower), :2]) / 2
            columns = (np.arange(len(opacity)) + 0.5) / p.zoom
            above = np.arange(len(opacity))[:, None] / p.zoom < np.interp(columns, *middle.T) + 0.3
            distance = p.distance(p.polygon(outline))
            skin = 0.96 * fill(colour, distance > 4.5)
            lashes = np.exp(-((distance / 0.9) ** 2))[..., None]
            skin = skin + (SHUT_LIDS - skin) * 0.8 * lashes
            mask = smoothstep(-distance, -4.5, -3.0) * _blur(above.astype(np.float32), 0.3 * p.zoom)
            add(mask, skin, lambda w, name=f"eyeBlink_{side}": float(smoothstep(w[name], 0.1, 0.7)))

    def _make_plate(self) -> None:
        """The photograph without the head, and how its parts follow the torso and the neck."""
        p = self.portrait
        hidden = cv2.dilate((self.head_opacity > 0.02).astype(np.uint8), _disc(1.8 * p.zoom))
        plate = fill(p.photo, 1.0 - hidden)
        # The collar's ring meets the neck behind the jaw: every row goes on in the colour just left of it.
        left = round(NECK[0] * p.zoom)
        for row in range(round(RING_Y * p.zoom), round(p.landmarks[JAW[2], 1] * p.zoom)):
            jaw = np.argmax(hidden[row])
            plate[row, jaw:left] = p.photo[row, jaw - round(p.zoom) : jaw].mean(0)
        # The neck goes on behind the chin: every column in the colours just below it, blurred.
        rows = np.arange(len(plate))
        slope = NECK_SLANT * (COLLAR_Y - p.landmarks[JAW[0], 1] + 12)
        right = round((NECK[1] + slope) * p.zoom)
        below = len(rows) - np.argmax(hidden[::-1, left:right] > 0, 0) + round(3.5 * p.zoom)  # below the chin's shadow
        skin = np.stack([p.photo[y : y + round(2.5 * p.zoom), left + i].mean(0) for i, y in enumerate(below)])
        skin[round(NECK[1] * p.zoom) - left :] = skin[round(NECK[1] * p.zoom) - left - 1]  # beside the collar there is no skin
        skin = cv2.GaussianBlur(skin[None], (0, 0), 7 * p.zoom, borderType=cv2.BORDER_REPLICATE)[0]
        neck, column = np.zeros_like(plate), np.zeros(hidden.shape, np.float32)
        neck[:, left:right] = skin
        column[:, left:right] = rows[:, None] < below
        top = p.landmarks[JAW[0], 1] - 12
        column *= p.polygon([(NECK[0], top), (NECK[1] + slope, top), (NECK[1], COLLAR_Y), (NECK[0], COLLAR_Y)])
        column = _blur(column, 0.6 * p.zoom)[..., None]
        plate += (fill(neck, column[..., 0] > 0.5) - plate) * column

        def shrink(image: np.ndarray) -> np.ndarray:
            return cv2.resize(image, (self.size, self.size), interpolation=cv2.INTER_AREA)

        self._plate = plate.astype(np.float32)
        y = self._grid[1] / self._zoom
        chin = p.landmarks[152, 1]
        torso = shrink(_blur(p.person * (1 - p.head_area), 8 * p.zoom))
        self._follows_torso = torso * smoothstep(y, chin - 45, chin - 10)
        x = self._grid[0] / self._zoom
        across = smoothstep(x, NECK[0] - 14, NECK[0]) * smoothstep(-x, -NECK[1] - 14, -NECK[1])
        self._follows_neck = across * smoothstep(-y, -COLLAR_Y - 4, -chin + 10)
        right_edge = NECK[1] + NECK_SLANT * (COLLAR_Y - y)
        inside = smoothstep(x, NECK[0] - 1, NECK[0] + 1) * smoothstep(right_edge - x, -1, 1)
        self._shaded = inside * smoothstep(-y, -COLLAR_Y - 2, -COLLAR_Y + 2)

    def render(self, motion: Motion, index: int) -> Frame:
        """Draw a frame of a motion."""
        percent = CROP[2] / 100
        rotation = head_rotation(motion.rotation_deg[index])
        scale = motion.scale[index]
        sway, camera = motion.sway[index] * percent, motion.camera[index] * percent
        offset = motion.translation[index] * percent + sway + camera
        weights = self.rig.weights({name: curve[index] for name, curve in motion.expression.items()})
        relaxed = self.rig.pose(weights)
        posed = scale * (relaxed - self.pivot) @ rotation.T + self.pivot
        posed[:, :2] += offset

        def plane(depth: float) -> tuple[np.ndarray, np.ndarray]:
            """Where a point at this depth of the unmoved head lands: A, b of A @ [x, y] + b."""
            a = scale * rotation[:2, :2]
            b = scale * rotation[:2, 2] * (depth - self.pivot[2]) - a @ self.pivot[:2] + self.pivot[:2] + offset
            return a, b

        head = self._draw_head(posed, dict(zip(self.rig.names, weights)))
        a, b = plane(self.rig.ear_depth)
        neck_top = np.array([np.mean(NECK), self.portrait.landmarks[152, 1] - 8])
        image = self._draw_plate(camera, sway, 0.6 * (a @ neck_top + b - neck_top - sway - camera), head[..., 3])

        gaze = np.sin(np.deg2rad(motion.gaze_deg[index])) * EYEBALL_CM * self.fit.scale * [1, -1]
        for eye, upper, lower in zip(self.eyes, UPPER_LIDS, LOWER_LIDS):
            around = [*upper, *lower]
            box, x, y = self._behind(posed[around, :2], *plane(self.rig.base[around, 2].mean() + 1))
            # The upper lid and its lashes throw a shadow; the lower one has an edge.
            lids = [np.interp(self._grid[0][box], *(posed[list(lid), :2] * self._zoom).T) for lid in (upper, lower)]
            from_upper, from_lower = (np.maximum(d, 0) / self._zoom for d in (self._grid[1][box] - lids[0], lids[1] - self._grid[1][box]))
            shadow = np.maximum(0.55 * np.exp(-((from_upper / 1.6) ** 2)), 0.3 * np.exp(-((from_lower / 0.7) ** 2)))[..., None]
            image[box] = eye.colour(x, y, gaze) * (1 - shadow) + SHUT_LIDS * shadow
        around = [*UPPER_LIP, *LOWER_LIP]
        box, x, y = self._behind(posed[around, :2], *plane(self.rig.base[around, 2].mean() + TEETH_DEPTH))
        jaw = (relaxed - self.rig.base)[17, 1] + 3  # the jaw of the photographed smile is open a little
        light = smoothstep(_blur(1 - head[box][..., 3], 1.7 * self._zoom), 0.05, 0.8)  # the wider open, the more comes in
        image[box] = SHUT_LIPS + (self.mouth.colour(x, y, jaw) - SHUT_LIPS) * light[..., None]

        image = image * (1 - head[..., 3:]) + head[..., :3]
        picture = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
        return Frame(picture, (posed[:SKIN] * self._zoom).astype(np.float32))

    def _draw_head(self, posed: np.ndarray, weights: dict[str, float]) -> np.ndarray:
        """The head alone, RGBA with colours multiplied by opacity."""
        texture = self._head
        for k, (box, change, curve) in enumerate(self._changes):
            amount = curve(weights)
            if amount > 0:
                texture = texture.copy() if k == 0 or texture is self._head else texture
                texture[box][..., :3] += amount * change
        # An affine map of every triangle takes pixels of the picture to pixels of the texture.
        vertices = (posed + self.rig.order[:, None] * [0, 0, 1]) * self._zoom
        ids = self._rasteriser.draw_ids(vertices)
        a, b, c = (vertices[self.mesh.triangles[:, i], :2] for i in range(3))
        ta, tb, tc = (self.mesh.points[self.mesh.triangles[:, i]] * self.portrait.zoom for i in range(3))
        edges, texture_edges = np.stack([b - a, c - a], -1), np.stack([tb - ta, tc - ta], -1)
        determinant = edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0]
        adjugate = np.stack([edges[:, 1, 1], -edges[:, 0, 1], -edges[:, 1, 0], edges[:, 0, 0]], -1).reshape(-1, 2, 2)
        determinant = np.where(np.abs(determinant) < 1e-9, 1e-9, determinant)
        linear = texture_edges @ adjugate / determinant[:, None, None]
        shift = ta - np.einsum("nij,nj->ni", linear, a) - 0.5
        maps = np.concatenate([linear, shift[..., None]], -1).reshape(-1, 6).astype(np.float32)
        maps = np.concatenate([maps, np.float32([[0, 0, -1e4, 0, 0, -1e4]])])  # the last, for id -1, leads outside
        box = self._box(vertices)
        m = maps[ids[box]]
        x, y = self._grid[0][box], self._grid[1][box]
        at_x, at_y = (m[..., i] * x + m[..., i + 1] * y + m[..., i + 2] for i in (0, 3))
        head = np.zeros((self.size, self.size, 4), np.float32)
        head[box] = cv2.remap(texture, at_x, at_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        return head

    def _draw_plate(self, camera: np.ndarray, sway: np.ndarray, neck: np.ndarray, head: np.ndarray) -> np.ndarray:
        """The plate with the torso moved by sway and the neck by neck, photo pixels; the head's shadow falls on the neck."""
        x, y = self._grid / self._zoom
        x, y = (g - camera[i] - sway[i] * self._follows_torso - neck[i] * self._follows_neck for i, g in enumerate((x, y)))
        plate = _look_up(self._plate, x, y, self.portrait.zoom)
        small = cv2.resize(head, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
        drop = 3.0 * self._zoom / 4
        small = cv2.warpAffine(_blur(small, 4.0 * self._zoom / 4), np.float32([[1, 0, 0], [0, 1, drop]]), small.shape[::-1])
        shadow = cv2.resize(small, (self.size, self.size), interpolation=cv2.INTER_LINEAR)
        return plate * (1 - 0.5 * shadow * self._shaded)[..., None]

    def _box(self, points: np.ndarray) -> tuple[slice, slice]:
        """Rows and columns of the picture around points [n, 2 or more] of it."""
        low = np.clip(np.floor(points.min(0) - 4).astype(int), 0, self.size)
        high = np.clip(np.ceil(points.max(0) + 4).astype(int), 0, self.size)
        return slice(low[1], high[1]), slice(low[0], high[0])

    def _behind(self, points: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
        """The picture's part around points [n, 2] and, for its pixels, the photo pixels of a plane that A, b place."""
        box = self._box(points * self._zoom)
        x, y = (g[box] / self._zoom - b[i] for i, g in enumerate(self._grid))
        inverse = np.linalg.inv(a)
        return box, inverse[0, 0] * x + inverse[0, 1] * y, inverse[1, 0] * x + inverse[1, 1] * y

    def frames(self, motion: Motion) -> Iterator[Frame]:
        """All frames of a motion."""
        for i in range(len(motion)):
            yield self.render(motion, i)

    def truth(self, motion: Motion) -> dict[str, np.ndarray]:
        """What is known of every frame, in the face model's terms (see docs/demo_clip.md)."""
        relative = np.stack([head_rotation(r) for r in motion.rotation_deg])
        curves = [{n: c[i] for n, c in motion.expression.items()} for i in range(len(motion))]
        expression = np.stack([self.rig.weights(c) for c in curves])

        def curve(name: str) -> np.ndarray:
            return expression[:, self.rig.names.index(name)].astype(np.float32)

        return {
            "fps": np.array(motion.fps),
            "head_rotation_relative": relative.astype(np.float32),
            "head_rotation": (relative @ self.fit.rotation @ np.diag([1, -1, -1])).astype(np.float32),
            "rotation_deg": motion.rotation_deg.astype(np.float32),
            "scale": (motion.scale * self.fit.scale * self._zoom).astype(np.float32),
            "expression": expression.astype(np.float32),
            "expression_names": np.array(self.rig.names),
            "jaw_open": curve("jawOpen"),
            "blink_right": curve("eyeBlink_R"),
            "blink_left": curve("eyeBlink_L"),
            "gaze_deg": motion.gaze_deg.astype(np.float32),
        }
