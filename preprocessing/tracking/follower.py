"""Follows the faces of a video from frame to frame, shot by shot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from preprocessing.tracking.detectors import SAME_FACE_IOU, FaceDetector, overlap
from util.cli import UserError

SEARCH_INTERVAL = 10  # frames between two thorough searches in a long stretch without a face
MIN_SEEN_SHARE = 0.1  # share of a shot's frames in which a face must be seen to be counted
# A face that was lost is taken up again where it comes back, if it is not farther away than this many sides of its box, and its size has
# not changed by more than this factor.
REGAIN_DISTANCE, REGAIN_SIZE = 1.0, 1.4
FACES = ("largest", "left", "right")

# which of several faces: one of FACES, or the one nearest to this x, y in pixels of the frame
FaceChoice = str | tuple[float, float]


def parse_face(text: str) -> FaceChoice:
    """One of FACES or 'X,Y'. Raises: UserError."""
    if text in FACES:
        return text
    try:
        x, y = (float(part) for part in text.split(","))
        if not (math.isfinite(x) and math.isfinite(y)):
            raise ValueError
    except ValueError:
        raise UserError(f"--face {text}: give {', '.join(FACES)}, or X,Y in pixels of the frame") from None
    return x, y


@dataclass(eq=False)
class Track:
    """One face in one shot."""

    boxes: dict[int, np.ndarray] = field(default_factory=dict)  # by the frame's index
    seen: int = -1  # index of the last frame that shows it
    weight: float = 0.0  # sum of its sizes in pixels over the frames: largest for the main person

    def add(self, index: int, box: np.ndarray) -> None:
        self.boxes[index], self.seen = box, index
        self.weight += float(np.sqrt((box[2:] - box[:2]).prod()))

    @property
    def last(self) -> np.ndarray:
        return self.boxes[self.seen]

    @property
    def centre(self) -> np.ndarray:
        """Where it usually is: x, y in pixels."""
        boxes = np.array(list(self.boxes.values()))
        return np.median((boxes[:, :2] + boxes[:, 2:]) / 2, axis=0)


def choose_track(tracks: Sequence[Track], frames: int, face: FaceChoice = "largest") -> Track | None:
    """The track of the face that is wanted among those of a shot of so many frames; None when there is none.

    'largest' is the face that is largest and longest in the picture. The others are chosen among those seen in MIN_SEEN_SHARE of the
    frames, where there are any.
    """
    lasting = [t for t in tracks if len(t.boxes) > MIN_SEEN_SHARE * frames] or tracks
    if not lasting:
        return None
    if face == "largest":
        return max(tracks, key=lambda t: t.weight)
    if isinstance(face, str):
        return (min if face == "left" else max)(lasting, key=lambda t: t.centre[0])
    return min(lasting, key=lambda t: float(np.linalg.norm(t.centre - face)))


class FaceFollower:
    """Follows every face through a video by overlap.

    patience: number of frames for which a lost face is searched around its last place.
    """

    def __init__(self, detector: FaceDetector, patience: int = 30):
        self._detector, self._patience = detector, patience
        self.frames = 0
        self.shots: list[int] = []  # index of each shot's first frame
        self.tracks: list[list[Track]] = []  # of each shot

    def add(self, frames: Sequence[np.ndarray], begins: Sequence[bool]) -> None:
        """Take the next frames, uint8 [H, W, 3] RGB, `detector.batch_size` of them or fewer, and whether a shot begins with each."""
        for frame, found, begin in zip(frames, self._detector.detect(frames), begins):
            if begin or not self.shots:
                self.shots.append(self.frames)
                self.tracks.append([])
            self._add(frame, found, self.tracks[-1])
            self.frames += 1

    def _add(self, frame: np.ndarray, found: np.ndarray, tracks: list[Track]) -> None:
        index = self.frames
        free = list(found)
        # The longest track chooses first.
        for track in sorted(tracks, key=lambda t: -t.weight):
            if self._match(track, index, free):
                continue
            if index - track.seen <= self._patience:
                self._match(track, index, list(self._detector.near(frame, track.last)))
        if not free and all(index - t.seen > self._patience for t in tracks):
            # Nothing to follow: search thoroughly, but not every frame of a long stretch without a face.
            if index - self.shots[-1] < self._patience or index % SEARCH_INTERVAL == 0:
                free = list(self._detector.search(frame))
                for track in tracks:
                    self._match(track, index, free)
        for box in free:
            track = self._lost_one(tracks, index, box)
            if track is None:
                track = Track()
                tracks.append(track)
            track.add(index, box)

    def _lost_one(self, tracks: list[Track], index: int, box: np.ndarray) -> Track | None:
        """The longest track that was lost and may come back with this box."""
        size = float(max(box[2:] - box[:2]))
        for track in sorted(tracks, key=lambda t: -t.weight):
            before = float(max(track.last[2:] - track.last[:2]))
            away = float(np.linalg.norm((track.last[:2] + track.last[2:] - box[:2] - box[2:]) / 2))
            same_size = max(size / before, before / size) < REGAIN_SIZE
            if index - track.seen > self._patience and same_size and away < REGAIN_DISTANCE * before:
                return track
        return None

    @staticmethod
    def _match(track: Track, index: int, free: list[np.ndarray]) -> bool:
        """Give the track the box that overlaps its last one most, and remove that box from the list. Returns whether there was one."""
        if not free:
            return False
        overlaps = [overlap(track.last, box) for box in free]
        best = int(np.argmax(overlaps))
        if overlaps[best] < SAME_FACE_IOU:
            return False
        track.add(index, free.pop(best))
        return True
