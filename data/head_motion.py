"""Training frames with the head in poses that the video does not show: frame, NMFC image, landmarks and flow are moved together.

The head is shifted, scaled, turned in the picture, and turned a little out of it (points move in proportion to their depth, which the
NMFC image tells). In the frame the motion fades out along the neck and the hair, so that the body stays where it is, and the person
is laid over the background, which stays as well. Real heads move like that, and held-out or foreign poses are mostly such near
neighbours of what was filmed.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from util.landmarks import EYES

TRANSLATION = 0.05  # of the image's side, at most
SCALE = 0.05  # at most
ANGLE_DEG = 7.0  # at most
DEPTH_SHIFT = 0.07  # of the image's side, at most: how far the mesh's nearest vertex moves past its farthest; some 5 degrees
_STILL = 0.04, 0.30  # of the image's side around the NMFC: the motion is whole up to the first distance, and over at the second
_NECK = 0.0, 0.6  # the same below the chin, in distances between eyes and chin
_EDGE = 0.012  # of the image's side: blur of the person's mask
_FRINGE = 0.03  # of the image's side: so near to the person hair may still be seen, which must not stay behind
_DEPTH_BLUR = 0.02  # of the image's side: depth jumps behind the nose, and a picture must not tear there
_GRID = 64  # fields are smooth: computed on so many points a side
_INVERSIONS = 6


@dataclass(frozen=True)
class HeadMotion:
    """How a head is to be moved, for a whole clip."""

    affine: np.ndarray  # float64 [2, 3], maps points to points relative to the head's centre, in parts of the side
    depth_shift: np.ndarray  # float64 [2], in parts of the side


def random_head_motion(rng: np.random.Generator) -> HeadMotion:
    """Draw a motion: each part evenly up to its largest value, both ways."""
    angle, scale = np.radians(rng.uniform(-ANGLE_DEG, ANGLE_DEG)), rng.uniform(1 - SCALE, 1 + SCALE)
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = rng.uniform(-TRANSLATION, TRANSLATION, 2)
    return HeadMotion(np.column_stack([linear, shift]), rng.uniform(-DEPTH_SHIFT, DEPTH_SHIFT, 2))


class HeadMover:
    """A motion applied to the frames of a clip."""

    def __init__(self, motion: HeadMotion, nmfcs: np.ndarray, landmarks: np.ndarray, masks: np.ndarray, background: np.ndarray):
        """nmfcs: uint8 [N, H, H, 3]. landmarks: [N, 70, 2] in pixels. masks: uint8 [N, any, any], 255 where the person is.

        background: uint8 [H, H, 3], what is behind the person. Frames without a face stay as they are.
        """
        self.size = size = nmfcs[0].shape[0]
        self.background = background
        self.masks = masks
        seen = [x.any(-1) for x in nmfcs]
        known = [np.argwhere(m).mean(0)[::-1] + 0.5 for m in seen if m.any()]
        centre = np.mean(known, 0) if known else np.full(2, size / 2)
        # In pixels; of the whole head, as the mesh moves, and of what the frame shows. Forwards: where a point goes, less where it is;
        # backwards: where a point comes from, less where it is.
        self.heads = [_head_field(motion, x, m, centre) for x, m in zip(nmfcs, seen)]
        self.forwards = [f * _fade(m, points)[..., None] for f, m, points in zip(self.heads, seen, landmarks)]
        self.backwards = [_inverse(f, size) for f in self.forwards]

    def nmfc(self, i: int, image: np.ndarray) -> np.ndarray:
        """The NMFC image of frame i, uint8 [H, H, 3], moved as a whole; its colours stay pure."""
        return self._warp(image, _inverse(self.heads[i], self.size), cv2.INTER_NEAREST)

    def image(self, i: int, image: np.ndarray) -> np.ndarray:
        """Frame i, uint8 [H, H, 3], with the head moved."""
        mask = cv2.resize(self.masks[i], (self.size, self.size)).astype(np.float32) / 255
        reach = 2 * round(_FRINGE * self.size) + 1
        hidden, mask = (cv2.GaussianBlur(m, (0, 0), _EDGE * self.size) for m in (cv2.dilate(mask, np.ones((reach, reach))), mask))
        behind = image + hidden[..., None] * (self.background - image.astype(np.float32))  # the frame's own background where it shows
        person = self._warp(image, self.backwards[i], cv2.INTER_CUBIC)
        moved = self._warp(mask, self.backwards[i], cv2.INTER_LINEAR)
        # whole where the person is likely, so that the background does not shine through
        moved = np.clip(2 * moved, 0, 1)[..., None]
        return (moved * person + (1 - moved) * behind + 0.5).clip(0, 255).astype(np.uint8)

    def points(self, i: int, points: np.ndarray) -> np.ndarray:
        """Points on the head of frame i moved, [K, 2] in pixels."""
        return points + _sample(self.heads[i], points[None], self.size)[0]

    def flow(self, target: int, source: int, flow: np.ndarray) -> np.ndarray:
        """The flow between two moved frames, from that between the frames as filmed; [2, h, w] on a grid of any size, in pixels.

        target(p) ~ source(p + flow(p)).
        """
        grid = _points(self.size, flow.shape[-1])
        before = grid + cv2.resize(self.backwards[target], flow.shape[:0:-1])
        way = flow.transpose(1, 2, 0).astype(np.float32)
        matched = before + _sample(way, before, self.size)
        after = matched + _sample(self.forwards[source], matched, self.size)
        person = _sample(self.masks[target].astype(np.float32), before, self.size)[..., None] > 127
        return np.where(person, after - grid, way).transpose(2, 0, 1)

    def _warp(self, image: np.ndarray, backwards: np.ndarray, interpolation: int) -> np.ndarray:
        source = _points(self.size, self.size) + cv2.resize(backwards, (self.size, self.size)) - 0.5
        edge = cv2.BORDER_CONSTANT if interpolation == cv2.INTER_NEAREST else cv2.BORDER_REPLICATE
        return cv2.remap(image, source.astype(np.float32), None, interpolation, borderMode=edge)


def _head_field(motion: HeadMotion, nmfc: np.ndarray, seen: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """How far every point moves if it moves with the head: float32 [_GRID, _GRID, 2], pixels."""
    size = seen.shape[0]
    if not seen.any():
        return np.zeros((_GRID, _GRID, 2), np.float32)
    mask = cv2.resize(seen.astype(np.float32), (_GRID, _GRID), interpolation=cv2.INTER_AREA)
    depth = cv2.resize(nmfc[..., 2].astype(np.float32), (_GRID, _GRID), interpolation=cv2.INTER_AREA) / 255  # 0 where no face is
    # Blurred within the face; beyond its edge what is there is carried on.
    narrow, wide = ([cv2.GaussianBlur(x, (0, 0), s) for x in (depth, mask)] for s in (_DEPTH_BLUR * _GRID, 0.1 * _GRID))
    mean = depth.sum() / mask.sum()
    trust = np.clip(2 * narrow[1], 0, 1)
    smooth = trust * narrow[0] / np.maximum(narrow[1], 1e-3) + (1 - trust) * (wide[0] + 1e-2 * mean) / (wide[1] + 1e-2)
    place = _points(size, _GRID) - centre
    moved = place @ motion.affine[:, :2].T + motion.affine[:, 2] * size - place
    return (moved + (smooth - mean)[..., None] * motion.depth_shift * size).astype(np.float32)


def _fade(seen: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """How far what the frame shows follows the head: float32 [_GRID, _GRID], 1 on the face, 0 on the body."""
    size = seen.shape[0]
    mask = cv2.resize(seen.astype(np.float32), (_GRID, _GRID), interpolation=cv2.INTER_AREA)
    away = cv2.distanceTransform((mask < 0.5).astype(np.uint8), cv2.DIST_L2, 5) / _GRID
    chin, eyes = landmarks[8], landmarks[EYES].mean(0)
    down = (chin - eyes) / max(float(np.sum((chin - eyes) ** 2)), 1e-6)
    below = (_points(size, _GRID) - chin) @ down
    ramps = [np.clip((last - x) / (last - first), 0, 1) for x, (first, last) in ((away, _STILL), (below, _NECK))]
    fade = ramps[0] * ramps[1]
    return (fade * fade * (3 - 2 * fade)).astype(np.float32)


def _inverse(forwards: np.ndarray, size: int) -> np.ndarray:
    """The field that undoes a field: backwards(p) = -forwards(p + backwards(p)), by fixed-point iteration (its slope is below 1)."""
    grid = _points(size, _GRID)
    backwards = -forwards
    for _ in range(_INVERSIONS):
        backwards = -_sample(forwards, grid + backwards, size)
    return backwards


def _points(size: int, count: int) -> np.ndarray:
    """Centres of a grid's cells on a frame, float32 [count, count, 2], x and y in pixels."""
    along = (np.arange(count, dtype=np.float32) + 0.5) * (size / count)
    return np.stack(np.meshgrid(along, along), -1)


def _sample(field: np.ndarray, points: np.ndarray, size: int) -> np.ndarray:
    """A field [g, g, 2] at points [..., ..., 2] in pixels of the frame, bilinear; its edge goes on outside."""
    on_grid = (points * (field.shape[0] / size) - 0.5).astype(np.float32)
    return cv2.remap(field, on_grid, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
