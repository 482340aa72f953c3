"""Goes through a video once: its shots, the faces in each, and how light its frames are; then chooses what shows the person."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from preprocessing.tracking.detectors import FaceDetector
from preprocessing.tracking.follower import MIN_SEEN_SHARE, FaceChoice, FaceFollower, Track, choose_track
from preprocessing.tracking.shots import ShotDetector

# Contrast relative to the usual. A frame below the first is dark; so are the frames around it as far as the contrast goes on rising and is
# below the second: the rest of a fade.
DARK_SHARE, FADE_SHARE = 0.6, 0.95


@dataclass(frozen=True)
class Shot:
    """Frames [first, end) of a video without a cut, and the face that was chosen in them (None: there is none)."""

    first: int
    end: int
    track: Track | None
    faces: int  # different faces that are seen in a good part of the shot

    def __len__(self) -> int:
        return self.end - self.first

    @property
    def seen(self) -> int:
        """Number of frames in which the face was found."""
        return len(self.track.boxes) if self.track else 0

    def boxes(self) -> np.ndarray:
        """float64 [frames, 4]: the box of the face in pixels of the scanned frames, nan where it was not found."""
        boxes = np.full((len(self), 4), np.nan)
        for index, box in self.track.boxes.items():
            if index < self.end:
                boxes[index - self.first] = box
        return boxes


@dataclass(frozen=True)
class Scan:
    """What one pass over a video's frames tells."""

    follower: FaceFollower
    contrast: np.ndarray  # float [N], grey levels
    between: np.ndarray  # bool [N]: blank, a flash, or in a dissolve

    def shots(self, face: FaceChoice) -> list[Shot]:
        """All shots in order, each without the blank frames before the next."""
        starts, found = self.follower.shots, []
        for first, end, tracks in zip(starts, [*starts[1:], self.follower.frames], self.follower.tracks):
            if end < self.follower.frames:
                shown = np.flatnonzero(~self.between[first:end])
                end = first + (int(shown[-1]) + 1 if shown.size else 1)
            faces = sum(len(t.boxes) > MIN_SEEN_SHARE * (end - first) for t in tracks)
            found.append(Shot(first, end, choose_track(tracks, end - first, face), faces))
        return found

    def dark(self, shot: Shot) -> np.ndarray:
        """Which frames of a shot are too dark or blank to show anybody, those of fades included: bool [frames]."""
        contrast, dark = self.contrast[shot.first : shot.end], self.between[shot.first : shot.end].copy()
        if dark.all():
            return dark
        usual = float(np.median(contrast[~dark]))
        dark |= contrast < DARK_SHARE * usual
        for order in (range(1, len(dark)), range(len(dark) - 2, -1, -1)):
            step = order.step
            for i in order:
                if dark[i - step] and contrast[i - step] < contrast[i] < FADE_SHARE * usual:
                    dark[i] = True
        return dark


def scan(frames: Iterable[np.ndarray], detector: FaceDetector, patience: int, done: Callable[[int], object] = lambda n: None) -> Scan:
    """Detect shots and faces in a video's frames, uint8 [H, W, 3] RGB, with constant memory but for a few numbers a frame.

    patience: as in FaceFollower. done: called with the number of frames that were finished.
    """
    follower, detect_shots = FaceFollower(detector, patience), ShotDetector()
    between: list[bool] = []
    waiting: deque[np.ndarray] = deque()
    batch: list[tuple[np.ndarray, bool]] = []
    shown = False  # whether a frame with a picture has come

    def take(decided: list[tuple[bool, bool]], last: bool = False) -> None:
        nonlocal shown
        for begins, blank in decided:
            batch.append((waiting.popleft(), begins and shown))
            shown = shown or begins
            between.append(blank)
            if len(batch) == detector.batch_size:
                flush()
        if last:
            flush()

    def flush() -> None:
        if batch:
            follower.add(*zip(*batch))
            done(len(batch))
            batch.clear()

    for frame in frames:
        waiting.append(frame)
        take(detect_shots.add(frame))
    take(detect_shots.finish(), last=True)
    return Scan(follower, np.array(detect_shots.contrast), np.array(between, bool))
