"""The 70 landmarks: 68 of the 300-W / iBUG scheme plus the two pupils, and named groups of them.

Left and right are the image's: `RIGHT_EYE` (36-41) is the subject's right eye, on the left of an unmirrored picture.
"""

from __future__ import annotations

import numpy as np

JAW = slice(0, 17)
BROWS = slice(17, 27)
NOSE = slice(27, 36)
RIGHT_EYE = slice(36, 42)  # outer corner, two of the upper lid, inner corner, two of the lower lid
LEFT_EYE = slice(42, 48)  # inner corner, two of the upper lid, outer corner, two of the lower lid
MOUTH = slice(48, 68)
RIGHT_PUPIL = 68
LEFT_PUPIL = 69
INNER = slice(17, 68)  # the 51 points without the jaw line
EYES = [*range(36, 48), RIGHT_PUPIL, LEFT_PUPIL]  # the 14 eye landmarks


def interocular_distance(landmarks: np.ndarray) -> np.ndarray:
    """Distance of the outer eye corners (points 36 and 45), the 300-W normaliser.

    landmarks: [..., 70 or 68, 2]. Returns [...], in the same unit.
    """
    return np.linalg.norm(landmarks[..., 36, :] - landmarks[..., 45, :], axis=-1)


def eye_openings(landmarks: np.ndarray) -> np.ndarray:
    """Lid opening of the right and the left eye: mean distance of the two upper to the two lower lid points.

    landmarks: [..., 70 or 68, 2]. Returns [..., 2], in the same unit.
    """
    upper = landmarks[..., [[37, 38], [43, 44]], :]
    lower = landmarks[..., [[41, 40], [47, 46]], :]
    return np.linalg.norm(upper - lower, axis=-1).mean(-1)


def mouth_opening(landmarks: np.ndarray) -> np.ndarray:
    """Opening of the inner lips: mean distance of the three pairs (61, 67), (62, 66), (63, 65).

    landmarks: [..., 70 or 68, 2]. Returns [...], in the same unit.
    """
    return np.linalg.norm(landmarks[..., [61, 62, 63], :] - landmarks[..., [67, 66, 65], :], axis=-1).mean(-1)
