"""Training frames with the head in poses that the video does not show: frame, NMFC image, landmarks and flow are warped together.

The head is shifted, scaled, turned in the picture, and turned a little out of it (points move in proportion to their depth, which the
NMFC image tells); the motion fades out around it, so that body and background stay where they are. Real heads move like that, a
camera does not, and held-out or foreign poses are mostly such near neighbours of what was filmed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

TRANSLATION = 0.05  # of the image's side, at most
SCALE = 0.05  # at most
ANGLE_DEG = 7.0  # at most
DEPTH_SHIFT = 0.07  # of the image's side, at most: how far the mesh's nearest vertex moves past its farthest; some 5 degrees
_STILL = 0.04, 0.30  # of the image's side around the NMFC: the motion is whole up to the first distance, and over at the second
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
    """A motion applied to the frames of a clip, one field for each."""

    def __init__(self, motion: HeadMotion, nmfcs: Sequence[np.ndarray] | np.ndarray):
        """nmfcs: uint8 [N, H, H, 3]. Frames without a face stay as they are."""
        self.size = nmfcs[0].shape[0]
        seen = [x.any(-1) for x in nmfcs]
        known = [np.argwhere(m).mean(0)[::-1] + 0.5 for m in seen if m.any()]
        centre = np.mean(known, 0) if known else np.full(2, self.size / 2)
        # all in pixels; forwards: where a point goes, less where it is; backwards: where a point comes from, less where it is
        self.forwards = [_field(motion, x, m, centre) for x, m in zip(nmfcs, seen)]
        self.backwards = [_inverse(f, self.size) for f in self.forwards]

    def image(self, i: int, image: np.ndarray, interpolation: int) -> np.ndarray:
        """Frame i moved; uint8 [H, H, C]. interpolation: OpenCV's."""
        source = _points(self.size, self.size) + cv2.resize(self.backwards[i], (self.size, self.size))
        edge = cv2.BORDER_CONSTANT if interpolation == cv2.INTER_NEAREST else cv2.BORDER_REPLICATE
        return cv2.remap(image, (source - 0.5).astype(np.float32), None, interpolation, borderMode=edge)

    def points(self, i: int, points: np.ndarray) -> np.ndarray:
        """Points of frame i moved, [K, 2] in pixels."""
        return points + _sample(self.forwards[i], points[None], self.size)[0]

    def flow(self, target: int, source: int, flow: np.ndarray) -> np.ndarray:
        """The flow between two moved frames, from that between the frames as filmed; [2, h, w] on a grid of any size, in pixels.

        target(p) ~ source(p + flow(p)).
        """
        grid = _points(self.size, flow.shape[-1])
        before = grid + cv2.resize(self.backwards[target], flow.shape[:0:-1])
        matched = before + _sample(flow.transpose(1, 2, 0).astype(np.float32), before, self.size)
        after = matched + _sample(self.forwards[source], matched, self.size)
        return (after - grid).transpose(2, 0, 1)


def _field(motion: HeadMotion, nmfc: np.ndarray, seen: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """How far every point of a frame moves: float32 [_GRID, _GRID, 2], pixels."""
    size = seen.shape[0]
    if not seen.any():
        return np.zeros((_GRID, _GRID, 2), np.float32)
    mask = cv2.resize(seen.astype(np.float32), (_GRID, _GRID), interpolation=cv2.INTER_AREA)
    away = cv2.distanceTransform((mask < 0.5).astype(np.uint8), cv2.DIST_L2, 5) / _GRID
    fade = np.clip((_STILL[1] - away) / (_STILL[1] - _STILL[0]), 0, 1)
    fade = fade * fade * (3 - 2 * fade)
    depth = cv2.resize(nmfc[..., 2].astype(np.float32), (_GRID, _GRID), interpolation=cv2.INTER_AREA) / 255  # 0 where no face is
    # Blurred within the face; beyond its edge what is there is carried on.
    narrow, wide = ((cv2.GaussianBlur(depth, (0, 0), s), cv2.GaussianBlur(mask, (0, 0), s)) for s in (_DEPTH_BLUR * _GRID, 6.0))
    mean = depth.sum() / mask.sum()
    trust = np.clip(narrow[1] * 2, 0, 1)
    smooth = trust * narrow[0] / np.maximum(narrow[1], 1e-3) + (1 - trust) * (wide[0] + 1e-2 * mean) / (wide[1] + 1e-2)
    place = _points(size, _GRID) - centre
    moved = place @ motion.affine[:, :2].T + motion.affine[:, 2] * size - place
    moved += (smooth - mean)[..., None] * motion.depth_shift * size
    return (fade[..., None] * moved).astype(np.float32)


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
