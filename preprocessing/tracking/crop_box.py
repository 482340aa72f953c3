"""The fixed square crop box of a video, chosen from the boxes of its face.

Boxes are [left, top, right, bottom] in pixels of the frame; face boxes reach from the hair line to the chin.
"""

from __future__ import annotations

import numpy as np

REFERENCE_SIZE = 256  # px, side of the crop in whose pixels the margin counts
MIN_SIDE_RATIO = 1.05  # smallest side of the crop, relative to the area that the face covers over time
# Where the frame is too small for the wanted crop, the box moves up by this fraction of the missing size: hair needs more room than
# the chin.
UPWARD_SHARE = 0.25


def smooth_boxes(boxes: np.ndarray, window_length: int, polyorder: int) -> np.ndarray:
    """Savitzky-Golay filter over time, [frames, 4]; the window shrinks to the length of short videos."""
    from scipy.signal import savgol_filter

    window = min(window_length, len(boxes))
    window -= 1 - window % 2
    return savgol_filter(boxes, window, min(polyorder, window - 1), axis=0)


def drifts(smooth: list[np.ndarray], frame_size: tuple[int, int]) -> list[float]:
    """How far the face moves away from the crop box in each part, as a fraction of the mean of the frame's sides.

    smooth: smoothed boxes of every part, [frames, 4]. frame_size: width, height in pixels.
    """
    median = np.median(smooth[0], axis=0)
    return [float(np.abs(part - median).max() / np.mean(frame_size)) for part in smooth]


def choose_box(smooth: list[np.ndarray], frame_size: tuple[int, int], margin: int = 100, height_recentre: float = 0.0) -> np.ndarray:
    """The crop box: int [left, top, right, bottom], square.

    The median of the first part's smoothed boxes, made square and widened by the margin; larger if the face would leave it at
    any time. It is moved into the frame, and shrunk to the frame's shorter side where the face leaves room for that. Only a face that
    covers more than that side makes it reach outside, in that direction alone, and then it shows all of the frame in that direction.

    smooth: smoothed boxes of every part, [frames, 4]. frame_size: width, height in pixels. margin: room around the face in pixels of a
    crop of REFERENCE_SIZE, 0 to REFERENCE_SIZE - 1. height_recentre: moves the box down by this fraction of its side; negative: up.
    """
    median = np.median(smooth[0], axis=0)
    frame = np.array(frame_size)
    faces = np.concatenate(smooth)
    # area that the face covers over time, as far as the frame shows it
    low, high = np.clip(faces[:, :2].min(0), 0, frame), np.clip(faces[:, 2:].max(0), 0, frame)
    covered = (high - low).max()
    wanted = max((median[2:] - median[:2]).max() * REFERENCE_SIZE / (REFERENCE_SIZE - margin), covered * MIN_SIDE_RATIO)
    inside = covered <= frame.min()
    side = round(min(wanted, frame.min()) if inside else min(covered * MIN_SIDE_RATIO, frame.max()))
    corner = (median[:2] + median[2:]) / 2 - side / 2
    corner[1] += height_recentre * side - max(0, wanted - side) * UPWARD_SHARE
    corner = np.clip(corner, high - side, low)  # keep the face in the crop
    room = frame - side
    corner = np.clip(corner, np.minimum(room, 0), np.maximum(room, 0))  # and the crop in the frame, or around it
    left, top = np.round(corner).astype(int)
    return np.array([left, top, left + side, top + side])
