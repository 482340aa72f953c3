"""What is known of a head in N frames: as it was found in a video, and as it is to be drawn."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from util.geometry import Cameras


@dataclass(frozen=True)
class Person:
    """What preprocessing found of one identity in N frames."""

    identity: np.ndarray  # float64 [K_id]
    expression: np.ndarray  # float64 [N, K]
    cameras: Cameras  # of N frames
    landmarks: np.ndarray  # float64 [N, 70, 2], as detected, pixels
    size: int  # side of the frames, pixels
    fps: Fraction
    joined: np.ndarray  # bool [N]: whether a frame goes on from the one before


@dataclass(frozen=True)
class Driven:
    """What to draw: the target's head in N frames."""

    expression: np.ndarray  # float64 [N, K]
    cameras: Cameras
    landmarks: np.ndarray  # float64 [N, 70, 2], pixels of the target's frames


class DrivenFrame(NamedTuple):
    """What to draw in one frame; the arguments of Conditioner.step."""

    expression: np.ndarray  # float64 [K]
    camera: Cameras  # as `cameras[i]`
    landmarks70: np.ndarray  # float64 [70, 2], pixels of the target's frames
