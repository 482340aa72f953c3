"""Per-frame fields for data.augmentation.head_motion: the depth of each point, and how far it follows the head.

They lie on a coarse grid over the frame and do not depend on the motion.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from data.augmentation.grid import GRID, grid_points, nearest, on_grid
from util.face.landmarks import EYES
from util.numeric import smoothstep

_FADE_RANGE = 0.04, 0.30  # distances from the NMFC, of the image's side: full motion up to the first, none from the second on
_NECK_FADE_RANGE = 0.0, 0.6  # the same below the chin, in distances between eyes and chin
_SHOULDER_FADE = 0.16  # of the image's side: distance from the shoulders at which the motion is full again
_PAD = 2  # grid cells around the picture in the shoulder test
_OUTLINE = 0.6  # depth of the head's outline in its hair, from the mesh's edge (0) to the mean of the face (1): of three heads 0.37 to 0.76
_MODEL_DEPTH = 0.8  # of the image's side: depth of the face model in a usual crop
_MAX_DEPTH = 0.5  # of the image's side, before or behind the face: clips the unreliable depth of faces seen from the side
_DEPTH_BLUR = 0.02  # of the image's side: depth jumps behind the nose, and a picture must not tear there


@dataclass(frozen=True)
class HeadShapes:
    """Depth and motion weights of N frames; independent of the motion."""

    nearer: np.ndarray  # float32 [N, G, G], how much nearer to the camera a place is than the landmarks' mean, in pixels
    fade: np.ndarray  # float32 [N, G, G], how far what a frame shows follows the head: 1 on the face, 0 on the body
    centre: np.ndarray  # float32 [N, 2], mean of the landmarks, in pixels; nan where there is no face

    def __getitem__(self, part: slice) -> HeadShapes:
        return HeadShapes(**{k: v[part] for k, v in vars(self).items()})


def head_shapes(nmfcs: np.ndarray, landmarks: np.ndarray, masks: np.ndarray) -> HeadShapes:
    """nmfcs: uint8 [N, H, H, 3]. landmarks: [N, 70, 2] in pixels. masks: uint8 [N, any, any], 255 where the person is."""
    size = nmfcs.shape[1]
    small, faces = on_grid(nmfcs)
    depths = small[..., 2].astype(np.float32) / 255
    outline = _outline(depths, faces)
    nearer, fade = np.zeros((2, len(small), GRID, GRID), np.float32)
    shapes = HeadShapes(nearer, fade, np.full((len(small), 2), np.nan, np.float32))
    places = grid_points(size, GRID)
    for i, (face, depth, points, mask) in enumerate(zip(faces, depths, landmarks, masks, strict=True)):
        if face.any():
            # from the landmarks, about whose mean the mesh turns (data.augmentation.mesh_motion), so that hair stays with it
            near, at = _nearer(depth, face, outline, size), (points * (GRID / size) - 0.5).astype(np.float32)
            shapes.nearer[i] = near - cv2.remap(near, at[None], None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).mean()
            shapes.fade[i] = _fade(face, points, mask, places)
            shapes.centre[i] = points.mean(0)
    return shapes


def _outline(depths: np.ndarray, faces: np.ndarray) -> float:
    """Depth of the head's outline in its hair, 0..1 from the farthest to the nearest vertex of the face model's mean; of all frames.

    depths: float32 [N, G, G]; faces: bool [N, G, G].
    """
    shown = [depth[face] for depth, face in zip(depths, faces) if face.any()]
    if not shown:
        return 0.0
    edge, middle = np.mean([np.percentile(x, 5) for x in shown]), np.mean([x.mean() for x in shown])
    return float(edge + _OUTLINE * (middle - edge))


def _nearer(depth: np.ndarray, face: np.ndarray, outline: float, size: int) -> np.ndarray:
    """As in HeadShapes; beyond the face as near as the nearest place on it, but not behind the head's outline.

    depth: float32 [G, G], 0..1; face: bool [G, G].
    """
    beyond = np.maximum(depth.ravel()[nearest(face)[1]], np.float32(outline))
    near = (np.where(face, depth, beyond) - depth[face].mean()) * (_MODEL_DEPTH * size)
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
