"""Measures a person's head from the training frames: its depth, and the strength of the camera's perspective.

A fit's camera is a parallel one (weak perspective). A real one shows what is near larger than what is far: hair, 10 cm behind the eyes,
grows less than the face when the head comes nearer, and more when it is bowed. How much so depends on the camera's distance, which one
picture does not tell but the outline of a head that moves does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from util.face.landmarks import LEFT_EYE, RIGHT_EYE

GRID = 64  # points a side of a field, and places a side at which NMFC images are looked at
_ROW_HEIGHTS = 0.0, 0.6  # lowest and highest row above the eyes in which the outline is measured, in distances between the eyes' centres
_ROWS = 6  # rows in which the outline is measured
_OUTLINE_ERROR = 0.004  # standard error of the outline's middle, of the image's side
_WIDTH_ERROR = 0.006  # standard error of the outline's width, of itself
_FRAMES_PER_INDEPENDENT_SAMPLE = 10  # neighbouring frames show nearly the same: so many count as one
_GAUSS_NEWTON_STEPS = 10
# Priors of heads and cameras; of two values, mean and standard deviation.
_USUAL_BOX = 1.0, 1.42, 1.18  # ICT's mean face
_USUAL_DEPTH = 0.5, 0.15  # of the outline: from the edge of the mesh (0) to the mean of the face (1)
_USUAL_PERSPECTIVE = 0.5, 0.3  # a frame 26 cm wide at the head, filmed from half a metre
_MAX_PERSPECTIVE = 1.0  # limit of the estimate: the camera at one frame side from the head
_BOX_PRIOR_TURN = 0.05  # sine of the head's turns at which the frames weigh as much as the prior of the model's box
_SIDEWAYS_DAMPING = 0.1  # of the face model's width: damps the inversion for faces that are seen from the side


@dataclass(frozen=True)
class Head:
    """A person's head as the camera sees it. Places on it are colours: NMFC colours, 0..1 on each axis."""

    # float64 [3], what the colours' axes span, in widths of the face model; None: the head is moved by the model's own axes
    box: np.ndarray | None
    outline: float  # depth of the head's outline above the ears: 0..1 from the farthest to the nearest vertex of the model's mean
    perspective: float  # the frame's side where the head is, in distances of the camera; 0 if that is very far


USUAL_HEAD = Head(np.array(_USUAL_BOX), 0.5, _USUAL_PERSPECTIVE[0])


@dataclass(frozen=True)
class View:
    """One frame and its parallel camera, which sees the place on the head with colour c at across @ c + start, in pixels."""

    colours: np.ndarray  # float32 [G, G, 3], of the NMFC image at the grid's points
    face: np.ndarray  # bool [G, G], where it shows the face
    points: np.ndarray  # float32 [G, G, 2], the grid's points in pixels
    across: np.ndarray  # float64 [2, 3]
    start: np.ndarray  # float64 [2]
    nearer: np.ndarray  # float64 [3]: how many pixels nearer to the camera places are, as nearer @ c
    width: float  # of the face model, in pixels

    @classmethod
    def of(cls, small: np.ndarray, face: np.ndarray, size: int, box: np.ndarray) -> View:
        """small, face: of an NMFC image of `size` pixels (`on_grid`); box: as in Head. By least squares."""
        colours, points = small.astype(np.float32) / 255, grid_points(size, GRID)
        *across, start = np.linalg.lstsq(np.column_stack([colours[face], np.ones(face.sum())]), points[face], rcond=None)[0]
        across = np.transpose(across)
        return cls(colours, face, points, across, start, *_depth(across, box))

    def measured_by(self, box: np.ndarray) -> View:
        """The same view with another box."""
        nearer, width = _depth(self.across, box)
        return replace(self, nearer=nearer, width=width)

    def see(self, places: np.ndarray) -> np.ndarray:
        """Projects places on the head [..., 3] to pixels [..., 2]."""
        return places @ self.across.T + self.start

    def head(self, outline: float) -> np.ndarray:
        """The place on the head that each of the grid's points shows: float32 [G, G, 3], of the depth of `nearest_places`."""
        places = nearest_places(self.colours, self.face, outline)
        # from there, at that depth, to the sides and upwards
        sideways = self.across[:, :2]
        solve = np.linalg.solve(sideways.T @ sideways + ((_SIDEWAYS_DAMPING * self.width) ** 2 + 1e-6) * np.eye(2), sideways.T)
        places[..., :2] += np.where(self.face[..., None], 0, (self.points - self.see(places)) @ solve.T)
        return places


def _depth(across: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, float]:
    """`nearer` and `width` of a View."""
    x, y = across
    away = np.cross(x / box, y / box)
    width = max(float(np.sqrt(np.linalg.norm(away))), 1e-6)
    return -away / width * box, width


def nearest_places(colours: np.ndarray, face: np.ndarray, outline: float) -> np.ndarray:
    """Colours [G, G, 3], and beyond the face's edge those of the nearest place on it, but not behind the head's outline (Head.outline)."""
    _, labels = cv2.distanceTransformWithLabels((~face).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    of_label = np.zeros((labels.max() + 1, 3), np.float32)
    of_label[labels[face]] = colours[face]
    places = of_label[labels]
    places[..., 2] = np.where(face, places[..., 2], np.maximum(places[..., 2], np.float32(outline)))
    return places


def measure_head(
    nmfcs: np.ndarray, landmarks: np.ndarray, masks: np.ndarray, cameras: np.ndarray | None = None, *, perspective: bool = True
) -> Head:
    """The head of a person, from N frames of the whole video.

    Where the frames say little (the head hardly moves, its outline lies outside the picture) the estimate stays near the prior.
    nmfcs: uint8 [N, H, H, 3]. landmarks: [N, 70, 2] in pixels. masks: uint8 [N, any, any], 255 where the person is. cameras: the fits'
    scales times their rotations, [N, 3, 3]; without them the face model's box is taken to be a usual one. perspective: False for a head
    that is moved by the model's own axes, as a camera far away sees it.
    """
    size = nmfcs.shape[1]
    small, faces = on_grid(nmfcs)
    shown = [i for i, face in enumerate(faces) if face.sum() >= GRID]
    landmarks, masks, box = landmarks[shown], masks[shown], USUAL_HEAD.box
    views = [View.of(small[i], faces[i], size, box) for i in shown]
    outline = _outline_depth(views, landmarks, masks, size)
    if not perspective:
        return Head(None, outline, 0.0)
    if not views:
        return USUAL_HEAD
    if cameras is not None:
        box = _box(np.array([v.across for v in views]), cameras[shown, :2])
        views = [v.measured_by(box) for v in views]
    return Head(box, outline, _perspective(views, landmarks, masks, size, outline))


def _box(seen: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """As in Head: what makes the colours' cameras [N, 2, 3] those that the fits have for the model, [N, 2, 3]."""
    product, square = (seen * fitted).sum((0, 1)), (fitted**2).sum((0, 1))
    width = product[0] / max(square[0], 1e-9)
    prior = (fitted[:, 0] ** 2).sum() * _BOX_PRIOR_TURN**2
    box = (product + prior * width * USUAL_HEAD.box) / (square + prior)
    return box / box[0] if (box > 0).all() else USUAL_HEAD.box


def _outline_depth(views: Sequence[View], landmarks: np.ndarray, masks: np.ndarray, size: int) -> float:
    """As in Head, from how the outline moves when the head turns.

    A view tells where the camera sees each place on the head, so also where it would see the middle between the outlines left and
    right, if that were a place on the head; the place that explains the frames best is found by least squares.
    """
    normal, right, edges, means = np.zeros((3, 3)), np.zeros(3), [], []
    for view, points, mask in zip(views, landmarks, masks, strict=True):
        eyes = _eyes(points)
        up = np.array([0, -np.linalg.norm(eyes[1] - eyes[0])])
        rows = [eyes.mean(0) + share * up for share in np.linspace(*_ROW_HEIGHTS, _ROWS)]
        ends = [e for e in (_outline_ends(mask, row, np.array([1.0, 0]), size) for row in rows) if e]
        if len(ends) <= _ROWS // 2:
            continue
        middle = rows[0][0] + np.median([(b - a) / 2 for a, b in ends])
        normal += np.outer(view.across[0], view.across[0])
        right += view.across[0] * (middle - view.start[0])
        depth = view.colours[view.face][:, 2]
        edges.append(np.percentile(depth, 5))
        means.append(depth.mean())
    if not means:
        return USUAL_HEAD.outline
    edge, mean = np.mean(edges), np.mean(means)
    usual, spread = edge + _USUAL_DEPTH[0] * (mean - edge), _USUAL_DEPTH[1]
    prior = np.diag([1e-6, 1e-6, ((_OUTLINE_ERROR * size) / spread) ** 2 * _FRAMES_PER_INDEPENDENT_SAMPLE])
    found = np.linalg.solve(normal + prior, right + prior @ (0.5, 0.5, usual))
    return float(np.clip(found[2], edge, 1))


def _perspective(views: Sequence[View], landmarks: np.ndarray, masks: np.ndarray, size: int, outline: float) -> float:
    """As in Head, from how the outline's width, measured by the face's, goes with how far it is before or behind the face.

    At a depth z, in sides of the frame nearer than the face, a pinhole camera shows things 1 / (1 - perspective * z) times as large.
    """
    rows = _rows_above_the_eyes(views, landmarks)
    places = np.column_stack([np.full(_ROWS, 0.5), rows, np.full(_ROWS, outline)])
    sizes, nears = [], []
    for view, mask in zip(views, masks, strict=True):
        across = view.across[:, 0] / max(np.linalg.norm(view.across[:, 0]), 1e-6)
        ends = [_outline_ends(mask, row, across, size) for row in view.see(places)]
        if None not in ends:
            sizes.append(np.log(np.sum(ends) / view.width))
            nears.append((places.mean(0) - view.colours[view.face].mean(0)) @ view.nearer / size)
    usual, spread = _USUAL_PERSPECTIVE
    if len(sizes) < _FRAMES_PER_INDEPENDENT_SAMPLE:
        return usual
    larger, near, found = np.array(sizes), np.array(nears), usual
    prior, trust = (_WIDTH_ERROR / spread) ** 2 * _FRAMES_PER_INDEPENDENT_SAMPLE, np.ones(len(near))
    for _ in range(_GAUSS_NEWTON_STEPS):  # Gauss-Newton, robust: frames with large residuals, as with a wrong mask, weigh less
        error = larger + np.log(1 - found * near)
        error -= np.average(error, weights=trust)
        trust = 1 / np.maximum(1, np.abs(error) / (2 * np.median(np.abs(error)) + 1e-9))
        slope = near / (1 - found * near)
        slope -= np.average(slope, weights=trust)
        found += ((trust * slope * error).sum() + prior * (usual - found)) / ((trust * slope**2).sum() + prior)
        found = float(np.clip(found, 0, _MAX_PERSPECTIVE))
    return found


def _rows_above_the_eyes(views: Sequence[View], landmarks: np.ndarray) -> np.ndarray:
    """The colours' second axis in some rows from the eyes upwards."""
    eyes, apart = [], []
    for view, points in zip(views, landmarks, strict=True):
        pair = _eyes(points)
        nearest = np.argmin(np.sum((pair[:, None] - view.points[view.face]) ** 2, -1), 1)
        eyes.append(view.colours[view.face][nearest, 1].mean())
        apart.append(np.linalg.norm(pair[1] - pair[0]) / np.linalg.norm(view.across[:, 1]))
    return np.median(eyes) + np.linspace(*_ROW_HEIGHTS, _ROWS) * np.median(apart)


def _eyes(landmarks: np.ndarray) -> np.ndarray:
    """The middles of the right and the left eye, [2, 2]."""
    return np.array([landmarks[RIGHT_EYE].mean(0), landmarks[LEFT_EYE].mean(0)])


def _outline_ends(mask: np.ndarray, start: np.ndarray, across: np.ndarray, size: int) -> tuple[float, float] | None:
    """How far from a point of the frame the person ends, against and along a direction, in pixels; None where the picture ends before."""
    step = mask.shape[0] / size
    along = np.arange(2 * mask.shape[0])[:, None] * across
    ends = []
    for way in (-along, along):
        points = start * step - 0.5 + way
        points = points[((points >= 0) & (points <= mask.shape[0] - 1)).all(1)].astype(np.float32)
        row = cv2.remap(mask, points[None], None, cv2.INTER_LINEAR)[0] / 255 if len(points) else np.empty(0)
        below = np.flatnonzero(row < 0.5)
        if not len(below) or below[0] == 0:
            return None
        i = int(below[0])
        ends.append((i - (0.5 - row[i]) / (row[i - 1] - row[i])) / step)
    return ends[0], ends[1]


def on_grid(nmfcs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """NMFC images [N, H, H, 3] at the grid's points, [N, G, G, 3], and where they show the face, bool [N, G, G]."""
    along = ((np.arange(GRID) + 0.5) * (nmfcs.shape[1] / GRID)).astype(int)
    small = nmfcs.take(along, 1).take(along, 2)
    return small, (small[..., 0] | small[..., 1] | small[..., 2]) > 0


def grid_points(size: int, count: int) -> np.ndarray:
    """Centres of a grid's cells on a frame, float32 [count, count, 2], x and y in pixels."""
    along = (np.arange(count, dtype=np.float32) + 0.5) * (size / count)
    return np.stack(np.meshgrid(along, along), -1)
