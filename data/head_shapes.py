"""What frames say about how their heads can move (data.head_motion): how near each place is, and what goes with the head.

On a coarse grid over the frame, whatever the motion will be.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from util.landmarks import BROWS, EYES, LEFT_EYE, RIGHT_EYE, interocular_distance

GRID = 64  # points a side of a field
_STILL = 0.04, 0.30  # of the image's side around the NMFC: the motion is whole up to the first distance, and over at the second
_NECK = 0.0, 0.6  # the same below the chin, in distances between eyes and chin
_SHOULDERS = 0.16  # of the image's side: so far from the shoulders the motion is whole again
_PAD = 2  # cells
_DEPTH_BLUR = 0.02  # of the image's side: depth jumps behind the nose, and a picture must not tear there
_ABOVE = 0.0, 0.6  # in distances between the eyes' middles: how far above the eyes the head's outline is looked at,
_ROWS = 6  # in so many rows
_OUTLINE_ERROR = 0.004  # of the image's side, in frames that count as independent: one in
_ALIKE = 10
_BROWS_HEIGHT = 0.06  # in distances of the outer eye corners; landmarks lie on their upper edge
_BROWS_REACH = 0.20, 0.05, 0.08  # the same above, below and beside the brows: what moves with them
_USUAL_DEPTH = 0.5, 0.15  # of the outline: mean, from the edge of the mesh (0) to the mean of the face (1), and spread, of all depth


@dataclass(frozen=True)
class HeadShapes:
    """What N frames say about how their heads can move, whatever the motion."""

    depth: np.ndarray  # float32 [N, G, G], 0..1 from the farthest to the nearest vertex of the model's mean, less the face's mean
    fade: np.ndarray  # float32 [N, G, G], how far what a frame shows follows the head: 1 on the face, 0 on the body
    centre: np.ndarray  # float32 [N, 2], of the face, in pixels; nan where there is none
    brows: np.ndarray  # float32 [N, G, G], how far a place follows the brows: 1 on them
    along: np.ndarray  # float32 [N, G, G], how far along the brows it is: 0 and 3 at their outer, 1 and 2 at their inner ends
    up: np.ndarray  # float32 [N, 2], up the face in the frame, as long as the outer eye corners are apart, in pixels

    def __getitem__(self, part: slice) -> HeadShapes:
        return HeadShapes(**{k: v[part] for k, v in vars(self).items()})


def head_shapes(nmfcs: np.ndarray, landmarks: np.ndarray, masks: np.ndarray, outline: float) -> HeadShapes:
    """nmfcs: uint8 [N, H, H, 3]. landmarks: [N, 70, 2] in pixels. masks: uint8 [N, any, any], 255 where the person is.

    outline: the depth of the head's outline (`outline_depth`).
    """
    size = nmfcs.shape[1]
    small, faces = _on_grid(nmfcs)
    count = len(small)
    depth, fade, brows, along = np.zeros((4, count, GRID, GRID), np.float32)
    shapes = HeadShapes(depth, fade, np.full((count, 2), np.nan, np.float32), brows, along, np.zeros((count, 2), np.float32))
    places = grid_points(size, GRID)
    for i, (face, nmfc, points, mask) in enumerate(zip(faces, small, landmarks, masks, strict=True)):
        if face.any():
            shapes.depth[i] = _smooth_depth(nmfc[..., 2].astype(np.float32) / 255, face, outline)
            shapes.fade[i] = _fade(face, points, mask, places)
            shapes.centre[i] = places[face].mean(0)
            shapes.brows[i], shapes.along[i], shapes.up[i] = _brows(points, places)
    return shapes


def outline_depth(nmfcs: np.ndarray, landmarks: np.ndarray, masks: np.ndarray) -> float:
    """At what depth the outline of a person's head lies above the ears, 0..1 from the farthest to the nearest vertex of the model's mean.

    From how it moves when the head turns: an NMFC image tells where the camera sees each point (X, Y, Z) of the model, so also where it
    would see the middle between the outlines left and right, if that were a point of the head; the point that explains N frames best is
    found by least squares. Frames that hardly turn say little; then the answer is near to what is usual.
    nmfcs, landmarks, masks: as for `head_shapes`, of frames from the whole video.
    """
    size = nmfcs.shape[1]
    places = grid_points(size, GRID)
    normal, right, edges, means = np.zeros((3, 3)), np.zeros(3), [], []
    for nmfc, face, points, mask in zip(*_on_grid(nmfcs), landmarks, masks, strict=True):
        middle = _outline_middle(mask, points, size)
        if middle is None or face.sum() < GRID:
            continue
        model = np.column_stack([nmfc[face] / 255, np.ones(face.sum())])
        *camera, start = np.linalg.lstsq(model, places[face][:, 0], rcond=None)[0]
        normal += np.outer(camera, camera)
        right += np.multiply(camera, middle - start)
        edges.append(np.percentile(model[:, 2], 5))
        means.append(model[:, 2].mean())
    if not means:
        return 0.5
    edge, mean = np.mean(edges), np.mean(means)
    usual, spread = edge + _USUAL_DEPTH[0] * (mean - edge), _USUAL_DEPTH[1]
    prior = np.diag([1e-6, 1e-6, ((_OUTLINE_ERROR * size) / spread) ** 2 * _ALIKE])
    found = np.linalg.solve(normal + prior, right + prior @ (0.5, 0.5, usual))
    return float(np.clip(found[2], edge, 1))


def _outline_middle(mask: np.ndarray, landmarks: np.ndarray, size: int) -> float | None:
    """x of the middle between the head's outlines above the eyes, in pixels of the frame; None where they are not in the picture."""
    right, left = landmarks[RIGHT_EYE].mean(0), landmarks[LEFT_EYE].mean(0)
    step = mask.shape[0] / size
    x, y = (right + left) / 2 * step
    middles = []
    for up in np.linspace(*_ABOVE, _ROWS) * np.linalg.norm(left - right) * step:
        if not (0 <= y - up < len(mask) and 0 <= x < len(mask)):
            continue
        row = mask[int(y - up)] / 255
        ends = [_half_way(row[int(x) :: -1]), _half_way(row[int(x) :])]
        if None not in ends:
            middles.append(int(x) + 0.5 + (ends[1] - ends[0]) / 2)
    return float(np.median(middles)) / step if len(middles) > _ROWS // 2 else None


def _half_way(row: np.ndarray) -> float | None:
    """How far along a row, which begins inside, its values fall below a half; None if they do not."""
    below = np.flatnonzero(row < 0.5)
    if not len(below) or below[0] == 0:
        return None
    i = int(below[0])
    return i - (0.5 - row[i]) / (row[i - 1] - row[i])


def _on_grid(nmfcs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The images at the grid's points, uint8 [N, G, G, 3], and where they show the face, bool [N, G, G]."""
    along = ((np.arange(GRID) + 0.5) * (nmfcs.shape[1] / GRID)).astype(int)
    small = nmfcs.take(along, 1).take(along, 2)
    return small, (small[..., 0] | small[..., 1] | small[..., 2]) > 0


def _smooth_depth(depth: np.ndarray, face: np.ndarray, outline: float) -> np.ndarray:
    """Depth of the face less its mean, [G, G]; beyond its edge that of the nearest place on it, if that is not behind the outline."""
    _, nearest = cv2.distanceTransformWithLabels((~face).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    of_label = np.zeros(nearest.max() + 1, np.float32)
    of_label[nearest[face]] = depth[face]
    whole = np.where(face, depth, np.maximum(of_label[nearest], np.float32(outline)))
    return cv2.GaussianBlur(whole, (0, 0), _DEPTH_BLUR * GRID) - depth[face].mean()


def _fade(face: np.ndarray, landmarks: np.ndarray, mask: np.ndarray, places: np.ndarray) -> np.ndarray:
    """As in HeadShapes. face: bool [G, G]; landmarks: [70, 2] in pixels; mask: uint8 [any, any]; places: the grid's points."""
    away = cv2.distanceTransform((~face).astype(np.uint8), cv2.DIST_L2, 5) / GRID
    chin, eyes = landmarks[8], landmarks[EYES].mean(0)
    down = (chin - eyes) / max(float(np.sum((chin - eyes) ** 2)), 1e-6)
    below = (places - chin) @ down
    ramps = [np.clip((last - x) / (last - first), 0, 1) for x, (first, last) in ((away, _STILL), (below, _NECK))]
    shoulders = _shoulders(mask, (eyes - places[0, 0]) / (places[1, 1] - places[0, 0]))
    if shoulders.any():
        ramps.append(np.minimum(cv2.distanceTransform((~shoulders).astype(np.uint8), cv2.DIST_L2, 5) / (_SHOULDERS * GRID), 1))
    fade = np.prod(ramps, axis=0)
    return fade * fade * (3 - 2 * fade)


def _shoulders(mask: np.ndarray, eyes: np.ndarray) -> np.ndarray:
    """Where a straight line from the eyes reaches the person only across the background, unlike neck and hair: bool [G, G].

    mask: uint8 [any, any]; eyes: point between them, in cells of the grid.
    """
    person = cv2.resize(mask, (GRID, GRID), interpolation=cv2.INTER_AREA)
    padded = cv2.copyMakeBorder(person, *[_PAD] * 4, cv2.BORDER_REPLICATE)  # beyond the picture it goes on as at its edge
    reach, angles, centre = 2 * GRID, 4 * GRID, (float(eyes[0] + _PAD), float(eyes[1] + _PAD))
    how = cv2.WARP_POLAR_LINEAR | cv2.INTER_LINEAR | cv2.WARP_FILL_OUTLIERS  # without the last, memory as it happens to be
    rays = cv2.warpPolar(padded, (reach, angles), centre, reach, how)  # [angles, distance]
    seen = np.minimum.accumulate(rays, axis=1)
    seen = cv2.warpPolar(seen, padded.shape, centre, reach, how | cv2.WARP_INVERSE_MAP)[_PAD:-_PAD, _PAD:-_PAD]
    hidden = ((person > 127) & (seen < 128)).astype(np.uint8)
    return cv2.morphologyEx(hidden, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8)) > 0  # without specks at the outline


def _brows(landmarks: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """brows, along and up as in HeadShapes, of one frame; landmarks: [70, 2] in pixels; places: the grid's points."""
    apart = float(interocular_distance(landmarks))
    if apart < 1:  # seen from the side: nothing to go by
        return np.zeros((GRID, GRID)), np.zeros((GRID, GRID)), np.zeros(2)
    across = (landmarks[45] - landmarks[36]) / apart
    up = np.array([across[1], -across[0]])
    axes = np.column_stack([across, up]) / apart
    x, y = np.moveaxis(places @ axes, -1, 0)
    ends, heights = (landmarks[BROWS] @ axes).T
    ends = np.maximum.accumulate(ends)
    above, below, beside = _BROWS_REACH
    away = y - np.interp(x, ends, heights)
    away = np.maximum(away, 0) + np.minimum(away + _BROWS_HEIGHT, 0)
    beyond = np.maximum(np.maximum(ends[0] - x, x - ends[-1]), 0)
    near = np.exp(-0.5 * ((away / np.where(away > 0, above, below)) ** 2 + (beyond / beside) ** 2))
    return near, np.interp(x, ends, np.r_[np.linspace(0, 1, 5), np.linspace(2, 3, 5)]), up * apart


def grid_points(size: int, count: int) -> np.ndarray:
    """Centres of a grid's cells on a frame, float32 [count, count, 2], x and y in pixels."""
    along = (np.arange(count, dtype=np.float32) + 0.5) * (size / count)
    return np.stack(np.meshgrid(along, along), -1)
