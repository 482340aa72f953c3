"""Follows the driver's face in a live picture, and no other one."""

from __future__ import annotations

import numpy as np

from preprocessing.tracking.same_person import mesh_shape, shape_distance, usual_shape
from preprocessing.tracking.tracker import Tracker

GROWTH_PER_S = 1.0  # by which the area where a lost face is looked for grows, in sides of its box a second
MOST_GROWTH = 1.0  # of that area, in sides of the box: a face in it still overlaps it as the tracker demands
RELEASE_S = 2.0  # a face that was lost for longer may come back anywhere, if it looks like the driver's
MAX_SHAPE = 1.0  # distance of one frame's mesh from the driver's, same_person's unit: 0.7 tells people apart by the median of ten frames


class FaceTrack:
    """Tracks one person's landmarks from frame to frame. A context manager; else call close().

    Raises: UserError when MediaPipe cannot be used.
    """

    def __init__(self) -> None:
        self._tracker = Tracker()
        self.forget()

    def forget(self) -> None:
        """The next face that is seen may be anybody's."""
        self._box: np.ndarray | None = None  # of the last frame with the face
        self._seen_s = 0.0
        self._shape: np.ndarray | None = None
        self.stranger = False

    def lose_place(self) -> None:
        """The picture was turned over, or has another size: the face may be anywhere now."""
        self._box = None

    def remember(self, landmarks: list[np.ndarray]) -> None:
        """Whose face it is: landmarks [478, 3] of some frames."""
        self._shape = usual_shape([mesh_shape(points) for points in landmarks])

    def step(self, rgb: np.ndarray, time_s: float) -> np.ndarray | None:
        """The landmarks in the next frame, float32 [478, 3] px; None when the face is not seen: `stranger` says whether another one is.

        rgb: uint8 [H, W, 3]. time_s: of the frame.
        """
        lost_s = time_s - self._seen_s
        known = self._box is not None and lost_s <= RELEASE_S
        points = self._tracker.step(rgb, _grown(self._box, lost_s) if known else None)
        self.stranger = self._tracker.strayed
        if points is not None and not known and self._shape is not None:
            self.stranger = shape_distance(self._shape, mesh_shape(points)) > MAX_SHAPE
            points = None if self.stranger else points
        if points is not None:
            self._box, self._seen_s = np.concatenate([points[:, :2].min(0), points[:, :2].max(0)]), time_s
        return points

    def close(self) -> None:
        self._tracker.close()


def _grown(box: np.ndarray, lost_s: float) -> np.ndarray:
    """A box [left, top, right, bottom] with room around it for where a face may be after a time unseen."""
    room = min(GROWTH_PER_S * lost_s, MOST_GROWTH) / 2 * (box[2:] - box[:2])
    return np.concatenate([box[:2] - room, box[2:] + room])
