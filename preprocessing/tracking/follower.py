"""Follows the faces of a video from frame to frame, and says which one persists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from preprocessing.tracking.detectors import SAME_FACE_IOU, FaceDetector, overlap

SEARCH_INTERVAL = 10  # frames between two thorough searches in a long stretch without a face
MIN_SEEN_SHARE = 0.1  # share of the frames in which a face must be seen to be counted


@dataclass
class _Track:
    boxes: dict[int, np.ndarray] = field(default_factory=dict)
    seen: int = -1  # number of the last frame that shows it
    weight: float = 0.0  # sum of its sizes in pixels over the frames: largest for the main person

    def add(self, index: int, box: np.ndarray) -> None:
        self.boxes[index], self.seen = box, index
        self.weight += float(np.sqrt((box[2:] - box[:2]).prod()))

    @property
    def last(self) -> np.ndarray:
        return self.boxes[self.seen]


class FaceFollower:
    """Follows every face through a video by overlap; `boxes` then gives the one that persists.

    patience: number of frames for which a lost face is searched around its last place.
    """

    def __init__(self, detector: FaceDetector, patience: int = 30):
        self._detector, self._patience = detector, patience
        self._tracks: list[_Track] = []
        self.frames = 0

    def add(self, frames: Sequence[np.ndarray]) -> None:
        """Take the next frames, uint8 [H, W, 3] RGB, `detector.batch_size` of them or fewer."""
        for frame, found in zip(frames, self._detector.detect(frames)):
            self._add(frame, found)
            self.frames += 1

    def boxes(self) -> np.ndarray:
        """float64 [frames, 4]: the boxes of the face that persists, NaN where it was not found."""
        result = np.full((self.frames, 4), np.nan)
        if self._tracks:
            for index, box in max(self._tracks, key=lambda t: t.weight).boxes.items():
                result[index] = box
        return result

    @property
    def faces(self) -> int:
        """Number of different faces that were seen in more than MIN_SEEN_SHARE of the frames."""
        return sum(len(t.boxes) > MIN_SEEN_SHARE * self.frames for t in self._tracks)

    def _add(self, frame: np.ndarray, found: np.ndarray) -> None:
        index = self.frames
        free = list(found)
        # The longest track chooses first.
        for track in sorted(self._tracks, key=lambda t: -t.weight):
            if self._match(track, index, free):
                continue
            if index - track.seen <= self._patience:
                self._match(track, index, list(self._detector.near(frame, track.last)))
        if not free and all(index - t.seen > self._patience for t in self._tracks):
            # Nothing to follow: search thoroughly, but not every frame of a long stretch without a face.
            if index < self._patience or index % SEARCH_INTERVAL == 0:
                free = list(self._detector.search(frame))
                for track in self._tracks:
                    self._match(track, index, free)
        for box in free:
            track = _Track()
            track.add(index, box)
            self._tracks.append(track)

    @staticmethod
    def _match(track: _Track, index: int, free: list[np.ndarray]) -> bool:
        """Give the track the box that overlaps its last one most, and remove that box from the list. Returns whether there was one."""
        if not free:
            return False
        overlaps = [overlap(track.last, box) for box in free]
        best = int(np.argmax(overlaps))
        if overlaps[best] < SAME_FACE_IOU:
            return False
        track.add(index, free.pop(best))
        return True
