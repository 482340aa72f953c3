"""Landmarks and face model fitted to finished frames, real or synthesised, for the measures of scripts/evaluate.py and compute_*.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from preprocessing.driving.heads import Person
from preprocessing.driving.landmarks import frontal, gaze
from preprocessing.driving.motion import ANGLES, head_rotation, to_angles
from preprocessing.face_models.dense_points import from_dense
from preprocessing.face_models.morphable import MorphableModel
from preprocessing.fitting.video import Fit, fit_video
from preprocessing.tracking.tracker import track_frames
from util.ahead import map_ahead
from util.cli import UserError
from util.face.landmarks import eye_openings, mouth_opening
from util.image_io import read_image
from util.numeric import fill_gaps

MIN_FOUND = 0.5  # share of the frames in which a face must be found
# Curves of a head over time, and the standard deviations below which they are noise (scripts/bench/reenact.py)
CURVES = {"mouth": 0.03, "eye R": 0.03, "eye L": 0.03, "gaze x": 0.02, "gaze y": 0.02, "yaw": 0.5, "pitch": 0.5, "roll": 0.5}


@dataclass(frozen=True)
class Found:
    """The landmarks of N frames."""

    dense: np.ndarray  # float32 [N, 478, 3], pixels; frames without a face filled from their neighbours
    missed: np.ndarray  # bool [N]

    @property
    def landmarks(self) -> np.ndarray:
        """The 70 landmarks, float64 [N, 70, 2] in pixels, nan where no face was found."""
        points = from_dense(self.dense).astype(np.float64)
        points[self.missed] = np.nan
        return points


@dataclass(frozen=True)
class Refit:
    """The face model fitted anew to found landmarks."""

    found: Found
    fit: Fit

    @property
    def angles_deg(self) -> np.ndarray:
        """Yaw, pitch and roll of the head, [N, 3] degrees; nan where no face was found."""
        angles = np.stack(to_angles(head_rotation(self.fit.cameras)), 1)
        angles[self.found.missed] = np.nan
        return angles

    @property
    def expression(self) -> np.ndarray:
        """[N, K], nan where no face was found."""
        expression = self.fit.expression.copy()
        expression[self.found.missed] = np.nan
        return expression

    def curves(self, model: MorphableModel) -> dict[str, np.ndarray]:
        """The curves named in CURVES, each [N], nan where no face was found.

        Mouth: gap of the inner lips on the mesh, cm. Eyes: lid openings as seen, turned to the front, cm. Gaze: place of the pupils
        between the corners of their eyes, from the front, mean of both, in eye widths. Angles in degrees.
        """
        landmarks = from_dense(self.found.dense).astype(np.float64)
        count = len(landmarks)
        person = Person(self.fit.identity, self.fit.expression, self.fit.cameras, landmarks, 0, Fraction(25), np.arange(count) > 0)
        eyes = frontal(landmarks, self.fit.cameras)
        width = np.linalg.norm(eyes[:, [39, 45]] - eyes[:, [36, 42]], axis=-1).mean()
        look = gaze(model, self.fit.identity, person).mean(1) / width
        opening = eye_openings(eyes)
        mouth = mouth_opening(from_dense(model.landmarks(self.fit.identity, self.fit.expression)))
        curves = {"mouth": mouth, "eye R": opening[:, 0], "eye L": opening[:, 1], "gaze x": look[:, 0], "gaze y": look[:, 1]}
        curves |= dict(zip(ANGLES, to_angles(head_rotation(self.fit.cameras))))
        return {name: np.where(self.found.missed, np.nan, values) for name, values in curves.items()}


def find(paths: Sequence[Path], desc: str = "landmarks") -> Found:
    """Look for the face in consecutive frames, as detect_landmarks70.py does.

    Raises: UserError when MediaPipe cannot be used, or shows a face in less than half of the frames.
    """
    tracked = track_frames(map_ahead(read_image, paths, threads=1, depth=8), len(paths), desc)
    missed = tracked.missed
    if missed.mean() > 1 - MIN_FOUND:
        raise UserError(f"a face is found in only {(~missed).sum()} of the {len(paths)} frames in {paths[0].parent}")
    return Found(fill_gaps(tracked.dense, missed), missed)


def refit(model: MorphableModel, found: Found) -> Refit:
    """Fit a model to found landmarks: identity, and expression and camera of every frame. Raises: UserError when that fails."""
    try:
        return Refit(found, fit_video(model, found.dense[..., :2]))
    except ValueError as e:
        raise UserError(f"the face model cannot be fitted to the landmarks found ({e})") from None
