"""Measures how deep the outline of a person's head lies, from the training frames.

The face model ends where the hair begins. How deep the hair's outline lies behind the face tells how it moves when the head turns; one
picture does not say, but the outline of a head that moves does.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from util.face.landmarks import LEFT_EYE, RIGHT_EYE

GRID = 64  # points a side of a field, and places a side at which NMFC images are looked at
_ROW_HEIGHTS = 0.0, 0.6  # lowest and highest row above the eyes in which the outline is measured, in distances between the eyes' centres
_ROWS = 6  # rows in which the outline is measured
_OUTLINE_ERROR = 0.004  # standard error of the outline's middle, of the image's side
_FRAMES_PER_INDEPENDENT_SAMPLE = 10  # neighbouring frames show nearly the same: so many count as one
# mean and standard deviation of the outline's depth over people: from the edge of the mesh (0) to the mean of the face (1)
_USUAL_DEPTH = 0.5, 0.15
USUAL_OUTLINE = 0.5


@dataclass(frozen=True)
class View:
    """One frame and its parallel camera, which sees the place on the head with colour c (0..1) at across @ c + start, in pixels."""

    colours: np.ndarray  # float32 [G, G, 3], of the NMFC image at the grid's points
    face: np.ndarray  # bool [G, G], where it shows the face
    across: np.ndarray  # float64 [2, 3]
    start: np.ndarray  # float64 [2]

    @classmethod
    def of(cls, small: np.ndarray, face: np.ndarray, size: int) -> View:
        """small, face: of an NMFC image of `size` pixels (`on_grid`). By least squares."""
        colours, points = small.astype(np.float32) / 255, grid_points(size, GRID)
        *across, start = np.linalg.lstsq(np.column_stack([colours[face], np.ones(face.sum())]), points[face], rcond=None)[0]
        return cls(colours, face, np.transpose(across), start)


def nearest_places(colours: np.ndarray, face: np.ndarray, outline: float) -> np.ndarray:
    """Colours [G, G, 3], and beyond the face's edge those of the nearest place on it, but not behind the head's outline."""
    _, labels = cv2.distanceTransformWithLabels((~face).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    of_label = np.zeros((labels.max() + 1, 3), np.float32)
    of_label[labels[face]] = colours[face]
    places = of_label[labels]
    places[..., 2] = np.where(face, places[..., 2], np.maximum(places[..., 2], np.float32(outline)))
    return places


def outline_depth(nmfcs: np.ndarray, landmarks: np.ndarray, masks: np.ndarray) -> float:
    """Depth of the head's outline above the ears, 0..1 from the farthest to the nearest vertex of the face model's mean.

    From N frames of the whole video, by how the outline moves when the head turns: a view tells where the camera sees each place on the
    head, so also where it would see the middle between the outlines left and right, if that were a place on the head; the place that
    explains the frames best is found by least squares. Where they say little (the head hardly moves, its outline lies outside the picture)
    the estimate stays near the usual head's.
    nmfcs: uint8 [N, H, H, 3]. landmarks: [N, 70, 2] in pixels. masks: uint8 [N, any, any], 255 where the person is.
    """
    size, normal, right, edges, means = nmfcs.shape[1], np.zeros((3, 3)), np.zeros(3), [], []
    for small, face, points, mask in zip(*on_grid(nmfcs), landmarks, masks, strict=True):
        if face.sum() < GRID:
            continue
        view = View.of(small, face, size)
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
        return USUAL_OUTLINE
    edge, mean = np.mean(edges), np.mean(means)
    usual, spread = edge + _USUAL_DEPTH[0] * (mean - edge), _USUAL_DEPTH[1]
    prior = np.diag([1e-6, 1e-6, ((_OUTLINE_ERROR * size) / spread) ** 2 * _FRAMES_PER_INDEPENDENT_SAMPLE])
    found = np.linalg.solve(normal + prior, right + prior @ (0.5, 0.5, usual))
    return float(np.clip(found[2], edge, 1))


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
