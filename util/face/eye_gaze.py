"""The eye gaze image: lids and pupils drawn from the landmarks, one of the generator's two conditioning images."""

from __future__ import annotations

import cv2
import numpy as np

from util.face.landmarks import LEFT_PUPIL, RIGHT_PUPIL, eye_openings

_LIDS = [[36, 37, 38, 39], [39, 40, 41, 36], [42, 43, 44, 45], [45, 46, 47, 42]]  # each from one eye corner to the other
_CURVE_POINTS = 13
_SUPERSAMPLING = 4  # drawn at four times the size and averaged down: OpenCV's anti-aliased lines are 1.5 pixels too wide
_FRACTION_BITS = 6  # OpenCV's fixed-point coordinates, 1/64 pixel


def _cubic_through_four() -> np.ndarray:
    """[_CURVE_POINTS, 4]: points of the cubic that passes through four points at parameters 0, 1/3, 2/3, 1 (Lagrange)."""
    at = np.linspace(0, 1, _CURVE_POINTS)[:, None]
    knots = np.linspace(0, 1, 4)
    columns = []
    for i in range(4):
        others = np.delete(knots, i)
        columns.append(np.prod((at - others) / (knots[i] - others), axis=1))
    return np.stack(columns, 1)


_CURVE = _cubic_through_four()


def draw_eye_gaze(landmarks: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """Draw both eyelid contours and both pupils.

    landmarks: [70, 2], x and y in pixels of the drawn image (0.5 is the first pixel's centre); may lie outside of it.
    size: (height, width), or one number for a square image.
    Returns: uint8 [height, width, 3] RGB on black: the contours (points 36-47) as white curves, 2 pixels wide at 256 and in
    proportion at other heights; over them a red (255, 0, 0) disc at each pupil (68, 69) whose radius is a quarter of the sum of
    the two lid openings, so that a closed eye has none.
    """
    height, width = (size, size) if isinstance(size, int) else size
    image = np.zeros((height, width, 3), np.uint8)
    landmarks = np.asarray(landmarks, np.float64)
    if not np.isfinite(landmarks[36:48]).all() or not np.isfinite(landmarks[68:]).all():
        raise ValueError("eye landmarks must be finite numbers")
    curves = _CURVE @ landmarks[_LIDS]  # [4, points, 2]
    pupils = landmarks[[RIGHT_PUPIL, LEFT_PUPIL]]
    radius = eye_openings(landmarks).sum() / 4
    line = 2 * height / 256

    # Only the box around the eyes is drawn finely.
    margin = radius + line + 1
    points = np.concatenate([curves.reshape(-1, 2), pupils])
    left, top = np.clip(np.floor(points.min(0) - margin), 0, [width, height]).astype(int)
    right, bottom = np.clip(np.ceil(points.max(0) + margin) + 1, 0, [width, height]).astype(int)
    if left >= right or top >= bottom:
        return image
    fine = np.zeros((_SUPERSAMPLING * (bottom - top), _SUPERSAMPLING * (right - left), 3), np.uint8)

    def fixed_point(xy: np.ndarray) -> np.ndarray:
        """Points of the image -> OpenCV's fixed-point coordinates in `fine`, counted from the centre of the first pixel."""
        return np.rint(((xy - [left, top]) * _SUPERSAMPLING - 0.5) * (1 << _FRACTION_BITS)).astype(np.int32)

    cv2.polylines(fine, list(fixed_point(curves)), False, (255, 255, 255), max(1, round(_SUPERSAMPLING * line)), cv2.LINE_8, _FRACTION_BITS)
    if radius >= 0.25:
        for pupil in fixed_point(pupils).tolist():
            cv2.circle(
                fine, pupil, round(radius * _SUPERSAMPLING * (1 << _FRACTION_BITS)), (255, 0, 0), cv2.FILLED, cv2.LINE_8, _FRACTION_BITS
            )
    image[top:bottom, left:right] = cv2.resize(fine, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
    return image
