"""Finds where a video's shots begin: hard cuts, zooms by a cut, and dissolves.

Frames are compared as thumbnails after the best gain and offset, so that what counts is the structure in which they differ: a flash, a lamp
or a fade is no cut. Across blank frames (black, white, any single colour) the pictures before and behind are compared.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np

THUMBNAIL = (48, 27)  # width and height, pixels
LOOK_AHEAD = 34  # frames behind a frame that must be seen before it is decided whether a shot begins there
BLANK_CONTRAST = 5.0  # grey levels, standard deviation of a thumbnail; less is blank
# Differences are shares of the pictures' contrast. In ten real clips (3,400 frames, some with a camera in the hand) they exceed 0.3 only
# where the frames around move as much. Cuts between the clips: 0.75 and more; a zoom by 1.1 on a cut: 0.5 and more.
CUT_DIFFERENCE = 0.35
CUT_RATIO = 5.0  # a cut's difference, relative to the median difference of the frames around
CUT_PEAK = 2.0  # and relative to the largest of the two frames before and behind
# A cut changes the whole picture: of its structure, no more than this share may stay as it is. (A person who appears changes less.)
STAYING_SHARE = 0.5
SAME_DIFFERENCE = 0.6  # pictures before and behind blank frames that differ by less are of one shot
_BLOCK = (9, 8)  # height and width of a block, pixels of a thumbnail
_AROUND = 8  # frames before and behind that say how much the picture moves anyway
_FLASH = 6  # frames; pictures that come back within as many were interrupted, not cut
_SPANS = (8, 16, 32)  # lengths of dissolves, frames
# In a dissolve the frames between are mixtures of its ends up to this share of the ends' difference: 0.01 to 0.09 in dissolves between
# real clips, 0.20 and more within them.
_MIXTURE = 0.13
_MIXTURE_DIFFERENCE = 15.0  # grey levels; ends nearer to each other are no dissolve


@dataclass(frozen=True)
class Look:
    """What is kept of a frame."""

    thumbnail: np.ndarray  # float32 [27, 48, 3]
    mean: float  # grey levels
    contrast: float  # standard deviation, grey levels

    @classmethod
    def of(cls, rgb: np.ndarray) -> Look:
        # Areas of broken numbers of pixels are slow to average: the frame is brought to four times the thumbnail's size first.
        larger = cv2.resize(rgb, (4 * THUMBNAIL[0], 4 * THUMBNAIL[1]), interpolation=cv2.INTER_LINEAR)
        thumbnail = cv2.resize(larger, THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float32)
        return cls(thumbnail, float(thumbnail.mean()), float(thumbnail.std()))

    @property
    def blank(self) -> bool:
        return self.contrast < BLANK_CONTRAST


def difference(a: Look, b: Look) -> float:
    """The structure in which two pictures differ after the best gain and offset, 0 (none) to 1: the sine of the angle between them."""
    covariance = float(((a.thumbnail - a.mean) * (b.thumbnail - b.mean)).mean())
    alike = np.clip(covariance / max(a.contrast * b.contrast, 1e-6), 0, 1)
    return float(np.sqrt(1 - alike**2))


def staying_share(a: Look, b: Look) -> float:
    """How much of the pictures' structure lies in blocks that are the same in both after the best gain and offset: 0 to 1."""
    gain = b.contrast / max(a.contrast, 1e-6)
    pictures = ((a.thumbnail - a.mean) * gain, b.thumbnail - b.mean)
    height, width = _BLOCK
    blocks = [p.reshape(THUMBNAIL[1] // height, height, THUMBNAIL[0] // width, width, 3).transpose(0, 2, 1, 3, 4) for p in pictures]
    blocks = [x.reshape(-1, height * width * 3) for x in blocks]
    spread = np.maximum(blocks[0].std(1), blocks[1].std(1))
    same = np.sqrt(((blocks[0] - blocks[1]) ** 2).mean(1)) < 0.5 * spread
    return float((same * spread).sum() / max(spread.sum(), 1e-6))


class ShotDetector:
    """Takes a video's frames in order and decides, LOOK_AHEAD frames later, which of them begin a shot.

    Memory does not grow, but for `contrast`: that of every frame, grey levels.
    """

    def __init__(self) -> None:
        self._looks: deque[Look] = deque(maxlen=2 * LOOK_AHEAD)
        self._steps: deque[float] = deque(maxlen=2 * LOOK_AHEAD)  # difference of every look to the one before
        self.contrast: list[float] = []
        self._decided = 0
        self._before: Look | None = None  # the last picture of the shot so far
        self._interrupted = 0  # frames before this number are a flash or something else that comes between
        self._dissolves: list[tuple[int, int]] = []  # first frame, and the one behind the last
        self._dissolved = False  # the frame before was in one

    @property
    def frames(self) -> int:
        """Number of frames taken."""
        return len(self.contrast)

    def add(self, rgb: np.ndarray) -> list[tuple[bool, bool]]:
        """Take the next frame, uint8 [H, W, 3]. Returns what is decided now, in order: see `finish`."""
        look = Look.of(rgb)
        self._steps.append(difference(self._looks[-1], look) if self._looks else 0.0)
        self._looks.append(look)
        self.contrast.append(look.contrast)
        self._find_dissolves()
        return [self._decide()] if self.frames - self._decided > LOOK_AHEAD else []

    def finish(self) -> list[tuple[bool, bool]]:
        """What is left: for every frame whether a shot begins with it, and whether it is between two shots (blank, flash, dissolve)."""
        return [self._decide() for _ in range(self.frames - self._decided)]

    def _look(self, number: int) -> Look | None:
        place = number - (self.frames - len(self._looks))
        return self._looks[place] if 0 <= place < len(self._looks) else None

    def _step(self, number: int) -> float:
        place = number - (self.frames - len(self._looks))
        return self._steps[place] if 0 <= place < len(self._looks) else 0.0

    def _decide(self) -> tuple[bool, bool]:
        number, look = self._decided, self._look(self._decided)
        self._decided += 1
        self._dissolves = [d for d in self._dissolves if d[1] > number]
        if any(first <= number for first, _ in self._dissolves):
            self._dissolved = True
            return False, True
        if look.blank or number < self._interrupted:
            return False, True
        before = self._look(number - 1)
        if self._before is None or self._dissolved:
            begins = True
        elif before.blank or number == self._interrupted:
            begins = difference(self._before, look) > SAME_DIFFERENCE
        else:
            begins = self._cut(number)
            if begins and self._comes_back(number):
                return False, True
        self._dissolved = False
        self._before = look
        return begins, False

    def _cut(self, number: int) -> bool:
        """Whether the step to this frame stands out among those around it."""
        step = self._step(number)
        near = [self._step(number + k) for k in (-2, -1, 1, 2)]
        around = [self._step(number + k) for k in range(-_AROUND, _AROUND + 1) if k and self._look(number + k)]
        usual = max(float(np.median(around)) if around else 0.0, 0.01)
        if step <= CUT_DIFFERENCE or step <= CUT_RATIO * usual or step <= CUT_PEAK * max(near):
            return False
        return staying_share(self._look(number - 1), self._look(number)) < STAYING_SHARE

    def _comes_back(self, number: int) -> bool:
        """Whether the picture before this frame is back after a few frames, which are then marked as interrupted."""
        before = self._look(number - 1)
        for k in range(1, _FLASH + 1):
            later = self._look(number + k)
            if later is not None and not later.blank and difference(before, later) < CUT_DIFFERENCE / 2:
                self._interrupted = number + k
                return True
        return False

    def _find_dissolves(self) -> None:
        """Look for dissolves that end with the newest frame."""
        end = self.frames - 1
        for span in _SPANS:
            a, b = self._look(end - span), self._looks[-1]
            if a is None or a.blank or b.blank or difference(a, b) < SAME_DIFFERENCE:
                continue
            apart = float(np.abs(a.thumbnail - b.thumbnail).mean())
            if apart < _MIXTURE_DIFFERENCE:
                continue
            parts = (0.25, 0.5, 0.75)
            between = [self._look(end - span + round(w * span)).thumbnail for w in parts]
            mixed = [a.thumbnail * (1 - w) + b.thumbnail * w for w in parts]
            if max(float(np.abs(x - y).mean()) for x, y in zip(between, mixed)) < _MIXTURE * apart:
                self._dissolves.append((end - span + 1, end))
