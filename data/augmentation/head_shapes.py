"""Per-frame fields for data.augmentation.head_motion: the depth of each point, and how far it follows the head and the brows.

They lie on a coarse grid over the frame and do not depend on the motion.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from data.augmentation.head_geometry import GRID, Head, View, grid_points, nearest_places, on_grid
from util.face.landmarks import BROWS, EYES, interocular_distance
from util.numeric import smoothstep

_FADE_RANGE = 0.04, 0.30  # distances from the NMFC, of the image's side: full motion up to the first, none from the second on
_NECK_FADE_RANGE = 0.0, 0.6  # the same below the chin, in distances between eyes and chin
_SHOULDER_FADE = 0.16  # of the image's side: distance from the shoulders at which the motion is full again
_PAD = 2  # grid cells around the picture in the shoulder test
_MODEL_DEPTH = 0.8  # of the image's side: depth of the face model in a usual crop
_MAX_DEPTH = 0.5  # of the image's side, before or behind the face: clips the unreliable depth of faces seen from the side
_DEPTH_BLUR = 0.02  # of the image's side: depth jumps behind the nose, and a picture must not tear there
_BROWS_HEIGHT = 0.06  # in distances of the outer eye corners; landmarks lie on their upper edge
# How far the forehead goes with the brows, by the height above them (in distances of the outer eye corners). The frontalis muscle draws
# brows and scalp towards each other: hairline and front of the scalp go down a little (face_a and face_c, regression on flow).
_FOREHEAD = (0.0, 0.08, 0.15, 0.22, 0.32, 0.45, 0.6, 0.75, 0.95), (1.0, 0.97, 0.75, 0.42, 0.02, -0.12, -0.15, -0.12, 0.0)
_BROWS_REACH = 0.05, 0.08  # the same below and beside the brows: what moves with them


@dataclass(frozen=True)
class HeadShapes:
    """Depth and motion weights of N frames; independent of the motion."""

    nearer: np.ndarray  # float32 [N, G, G], how much nearer to the camera a place is than the face's mean, in pixels
    fade: np.ndarray  # float32 [N, G, G], how far what a frame shows follows the head: 1 on the face, 0 on the body
    centre: np.ndarray  # float32 [N, 2], of the face, in pixels; nan where there is none
    brows: np.ndarray  # float32 [N, G, G], how far a place follows the brows: 1 on them, below 0 where it goes the other way
    along: np.ndarray  # float32 [N, G, G], how far along the brows it is: 0 and 3 at their outer, 1 and 2 at their inner ends
    up: np.ndarray  # float32 [N, 2], up the face in the frame, as long as the outer eye corners are apart, in pixels

    def __getitem__(self, part: slice) -> HeadShapes:
        return HeadShapes(**{k: v[part] for k, v in vars(self).items()})


def head_shapes(nmfcs: np.ndarray, landmarks: np.ndarray, masks: np.ndarray, head: Head) -> HeadShapes:
    """nmfcs: uint8 [N, H, H, 3]. landmarks: [N, 70, 2] in pixels. masks: uint8 [N, any, any], 255 where the person is."""
    size = nmfcs.shape[1]
    small, faces = on_grid(nmfcs)
    count = len(small)
    nearer, fade, brows, along = np.zeros((4, count, GRID, GRID), np.float32)
    shapes = HeadShapes(nearer, fade, np.full((count, 2), np.nan, np.float32), brows, along, np.zeros((count, 2), np.float32))
    places = grid_points(size, GRID)
    for i, (face, nmfc, points, mask) in enumerate(zip(faces, small, landmarks, masks, strict=True)):
        if face.any():
            shapes.nearer[i] = _nearer(nmfc, face, head, size)
            shapes.fade[i] = _fade(face, points, mask, places)
            shapes.centre[i] = places[face].mean(0)
            shapes.brows[i], shapes.along[i], shapes.up[i] = _brows(points, places)
    return shapes


def _nearer(nmfc: np.ndarray, face: np.ndarray, head: Head, size: int) -> np.ndarray:
    """As in HeadShapes. nmfc: uint8 [G, G, 3]; face: bool [G, G]."""
    if head.box is None:
        colours = nmfc.astype(np.float32) / 255
        near = (nearest_places(colours, face, head.outline)[..., 2] - colours[face].mean(0)[2]) * (_MODEL_DEPTH * size)
    else:
        view = View.of(nmfc, face, size, head.box)
        near = (view.head(head.outline) - view.colours[face].mean(0)) @ view.nearer
    limit = _MAX_DEPTH * size
    return cv2.GaussianBlur(np.clip(near, -limit, limit).astype(np.float32), (0, 0), _DEPTH_BLUR * GRID)


def _fade(face: np.ndarray, landmarks: np.ndarray, mask: np.ndarray, places: np.ndarray) -> np.ndarray:
    """As in HeadShapes. face: bool [G, G]; landmarks: [70, 2] in pixels; mask: uint8 [any, any]; places: the grid's points."""
    away = cv2.distanceTransform((~face).astype(np.uint8), cv2.DIST_L2, 5) / GRID
    chin, eyes = landmarks[8], landmarks[EYES].mean(0)
    down = (chin - eyes) / max(float(np.sum((chin - eyes) ** 2)), 1e-6)
    below = (places - chin) @ down
    ramps = [np.clip((last - x) / (last - first), 0, 1) for x, (first, last) in ((away, _FADE_RANGE), (below, _NECK_FADE_RANGE))]
    shoulders = _shoulders(mask, (eyes - places[0, 0]) / (places[1, 1] - places[0, 0]))
    if shoulders.any():
        ramps.append(np.minimum(cv2.distanceTransform((~shoulders).astype(np.uint8), cv2.DIST_L2, 5) / (_SHOULDER_FADE * GRID), 1))
    return smoothstep(np.prod(ramps, axis=0))


def _shoulders(mask: np.ndarray, eyes: np.ndarray) -> np.ndarray:
    """Where a straight line from the eyes reaches the person only across the background, unlike neck and hair: bool [G, G].

    mask: uint8 [any, any]; eyes: point between them, in cells of the grid.
    """
    person = cv2.resize(mask, (GRID, GRID), interpolation=cv2.INTER_AREA)
    padded = cv2.copyMakeBorder(person, *[_PAD] * 4, cv2.BORDER_REPLICATE)  # beyond the picture it goes on as at its edge
    reach, angles, centre = 2 * GRID, 4 * GRID, (float(eyes[0] + _PAD), float(eyes[1] + _PAD))
    how = cv2.WARP_POLAR_LINEAR | cv2.INTER_LINEAR | cv2.WARP_FILL_OUTLIERS  # without the last, uninitialised memory
    rays = cv2.warpPolar(padded, (reach, angles), centre, reach, how)  # [angles, distance]
    seen = np.minimum.accumulate(rays, axis=1)
    seen = cv2.warpPolar(seen, padded.shape, centre, reach, how | cv2.WARP_INVERSE_MAP)[_PAD:-_PAD, _PAD:-_PAD]
    hidden = ((person > 127) & (seen < 128)).astype(np.uint8)
    return cv2.morphologyEx(hidden, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8)) > 0  # without specks at the outline


def _brows(landmarks: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """brows, along and up as in HeadShapes, of one frame; landmarks: [70, 2] in pixels; places: the grid's points."""
    apart = float(interocular_distance(landmarks))
    if apart < 1:  # seen from the side: the brows' axis is undefined
        return np.zeros((GRID, GRID)), np.zeros((GRID, GRID)), np.zeros(2)
    across = (landmarks[45] - landmarks[36]) / apart
    up = np.array([across[1], -across[0]])
    axes = np.column_stack([across, up]) / apart
    x, y = np.moveaxis(places @ axes, -1, 0)
    ends, heights = (landmarks[BROWS] @ axes).T
    ends = np.maximum.accumulate(ends)
    below, beside = _BROWS_REACH
    above = y - np.interp(x, ends, heights)
    beyond = np.maximum(np.maximum(ends[0] - x, x - ends[-1]), 0)
    near = np.exp(-0.5 * ((np.minimum(above + _BROWS_HEIGHT, 0) / below) ** 2 + (beyond / beside) ** 2)) * np.interp(above, *_FOREHEAD)
    return near, np.interp(x, ends, np.r_[np.linspace(0, 1, 5), np.linspace(2, 3, 5)]), up * apart
