"""The driver's usual values, from the first second on: no neutral first frame is needed."""

from __future__ import annotations

from collections import deque
from fractions import Fraction
from functools import cached_property

import numpy as np

from preprocessing.driving.driver import MIN_REFERENCE_FRAMES, DriverReference
from preprocessing.driving.profile import TargetProfile
from preprocessing.face_models.dense_points import from_dense
from preprocessing.face_models.morphable import MorphableModel
from preprocessing.fitting.frame import FrameFit, FrameFitter
from preprocessing.fitting.live_refinement import HeadRegion, LiveRefiner
from util.cli import UserError
from util.sampling import spread

FIRST_S = 1.0  # seconds with a face before the head is driven
MOST_FIRST_FRAMES = 40  # of that second: more make the first fit slower and not better
WINDOW_S = 20.0  # what is usual is the median over the last seconds: a lean or a glance aside that ends within half of them changes nothing
MOST_LEARNT = 16  # of those, whose colours the refinement learns: more tell it nothing new
EVERY_S = 0.1  # between two frames that count
TIME_CONSTANT_S = 4.0  # in which the usual values go over to a new median, too slow to be seen


class Calibration:
    """Finds the driver's identity and usual values in the first second, and keeps the values up to date.

    Size and place of the head, the gap between the lids and the pupils are medians over the last WINDOW_S, of which the first second stands
    for all that was not seen yet: who moves the chair, or began with half-shut eyes, is measured anew without notice.
    """

    def __init__(self, model: MorphableModel, size: int, known: TargetProfile | None = None, colours: np.ndarray | None = None) -> None:
        """size: side of the frames, pixels; counts only where the driver's own size or place is kept. known: the driver's profile.
        colours: of the driver's head, uint8 [F, 3] of the model's triangles, where they are known as well."""
        self._model, self._size, self._known, self._colours = model, size, known, colours
        self.reference: DriverReference | None = None
        self.landmarks: list[np.ndarray] = []  # of the first frames
        self.regions: list[HeadRegion] = []  # of the head in them
        self._began_s: float | None = None
        self._seen: deque[tuple[float, np.ndarray]] = deque()  # time, values

    def begin(self, dense: np.ndarray, frame: np.ndarray, time_s: float) -> bool:
        """Take one of the first frames, dense landmarks [478, 3] in uint8 [H, W, 3]; returns whether the reference is known now."""
        if self._began_s is None:
            self._began_s = time_s
        self.landmarks.append(dense)
        self.regions.append(HeadRegion.of(frame, dense))
        if time_s - self._began_s < FIRST_S - 1e-6 or len(self.landmarks) < MIN_REFERENCE_FRAMES:
            return False
        chosen = np.linspace(0, len(self.landmarks) - 1, min(len(self.landmarks), MOST_FIRST_FRAMES)).astype(int)
        try:
            first = [self.landmarks[i] for i in chosen]
            self.reference = DriverReference.of_landmarks(self._model, first, Fraction(30), self._size, self._known)
        except UserError:  # a face that cannot be fitted: begin again
            self.landmarks.clear()
            self.regions.clear()
            self._began_s = None
        return self.reference is not None

    @cached_property
    def refiner(self) -> LiveRefiner | None:
        """What refines the fits to come, learnt from the first frames when first asked for; None: they show too little of the head."""
        refiner = self._learn_refiner()
        self.landmarks, self.regions = [], []
        return refiner

    def _learn_refiner(self) -> LiveRefiner | None:
        fitter = FrameFitter(self._model, self.reference.identity)
        try:
            fits = [fitter.step(dense, FIRST_S / len(self.landmarks)) for dense in self.landmarks]
            learnt = spread(len(fits), MOST_LEARNT)
            of_frames = [self.regions[i] for i in learnt], [fits[i] for i in learnt]
            refiner = LiveRefiner(self._model, self.reference.identity, *of_frames, self._colours)
        except ValueError:
            return None
        if self._colours is not None:  # they place the head otherwise than the landmarks, which the reference is of
            last = list(zip(fits, self.regions, self.landmarks))[-MIN_REFERENCE_FRAMES:]
            refined = [refiner.step(fit, region, dense, i * FIRST_S / len(fits)) for i, (fit, region, dense) in enumerate(last)]
            values = [self.reference.usual_values(self._model, fit, from_dense(dense)) for fit, (*_, dense) in zip(refined, last)]
            self.reference = self.reference.with_usual(np.concatenate([np.mean(values, 0)[:3], self.reference.as_usual()[3:]]))
        return refiner

    def update(self, fit: FrameFit, landmarks70: np.ndarray, time_s: float) -> DriverReference:
        """The reference with this frame counted in."""
        since_s = time_s - self._seen[-1][0] if self._seen else EVERY_S
        if since_s < EVERY_S:
            return self.reference
        values = self.reference.usual_values(self._model, fit, landmarks70)
        if self._known:  # eyes are as in the profile
            values[3:] = self.reference.as_usual()[3:]
        if not self._seen:
            self._usual = self.reference.as_usual()
            self._seen.extend((time_s - EVERY_S * k, self._usual) for k in range(round(WINDOW_S / EVERY_S), 0, -1))
        self._seen.append((time_s, values))
        while time_s - self._seen[0][0] > WINDOW_S:
            self._seen.popleft()
        median = np.median([seen for _, seen in self._seen], 0)
        self._usual = self._usual + (1 - np.exp(-since_s / TIME_CONSTANT_S)) * (median - self._usual)
        self.reference = self.reference.with_usual(self._usual)
        return self.reference
