"""Motion that drives a head, without anyone's likeness, and the rotations and names that it is written in.

**Head rotation** is a rotation matrix in the models' own axes (x to the subject's left, y up, z towards the camera), so the identity
looks straight into the camera. Angles are yaw (to the subject's left +), pitch (up +) and roll (counter-clockwise in the picture +),
applied as Ry(yaw) Rx(-pitch) Rz(roll). These are the signs of the apps that export ARKit's angles as HeadYaw, HeadPitch, HeadRoll.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from util.geometry import FRONTAL, Cameras

ANGLES = ("yaw", "pitch", "roll")
# Model units (cm): where a head turns about, if nothing else is known. Fitted to the cameras of six videos it came out at
# (-0.8, -4.5, 3.5), of which left and right is chance, and depth as well (it has no effect on small nods).
PIVOT = np.array([0.0, -4.0, 0.0])


@dataclass(frozen=True)
class Placement:
    """Where and how large a source's head is in its own frames; a file that drives has none."""

    scale: float  # mean, pixels per model unit of a crop of `size` pixels
    centre: np.ndarray  # float64 [2], mean of translation / scale, model units
    size: int  # side of the crop, pixels


@dataclass(frozen=True)
class Motion:
    """N frames of a head's motion."""

    fps: Fraction
    rotation: np.ndarray  # float64 [N, 3, 3], see the module's text
    zoom: np.ndarray  # float64 [N]: the camera's scale, its mean taken as 1
    shift: np.ndarray  # float64 [N, 2]: translation / scale less its mean, model units (cm), x right, y down
    expression: np.ndarray  # float64 [N, K]
    # float64 [N, 2, 3]: where the right and the left pupil are seen in their eye, less where the fitted mesh has them, less the mean
    # of that; model units in the head's axes
    pupils: np.ndarray
    # [N, 12, 3], the same of the eyes' outlines, whose points are seen a little beside the fitted mesh's, and not always by as much;
    # None: not known
    eyes: np.ndarray | None = field(default=None, kw_only=True)
    # What is open in the source, as seen; None: as the expressions say.
    lids: np.ndarray | None = None  # float64 [N, 2], right and left eye; 1 is usual for the source, 0 shut
    lips: np.ndarray | None = None  # float64 [N], gap between the inner lips, model units, 0 shut
    placement: Placement | None = None

    def __len__(self) -> int:
        return len(self.rotation)


# ---- rotations ----


def from_angles(yaw_deg: np.ndarray, pitch_deg: np.ndarray, roll_deg: np.ndarray) -> np.ndarray:
    """Head rotations [..., 3, 3] from angles [...] in degrees; signs and order stand in the module's text."""
    angles = [np.deg2rad(np.asarray(a, np.float64)) for a in (yaw_deg, pitch_deg, roll_deg)]
    (a, b, c), (x, y, z) = (np.cos(angle) for angle in angles), (np.sin(angle) for angle in angles)
    # the product multiplied out
    rows = (a * c - x * y * z, -a * z - x * y * c, x * b), (b * z, b * c, y), (-x * c - a * y * z, x * z - a * y * c, a * b)
    return np.stack([np.stack(np.broadcast_arrays(*row), -1) for row in rows], -2)


def to_angles(rotation: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Yaw, pitch and roll in degrees of head rotations [..., 3, 3]: the inverse of `from_angles` for |pitch| < 90."""
    pitch = np.arcsin(np.clip(rotation[..., 1, 2], -1, 1))
    yaw = np.arctan2(rotation[..., 0, 2], rotation[..., 2, 2])
    roll = np.arctan2(rotation[..., 1, 0], rotation[..., 1, 1])
    return np.rad2deg(yaw), np.rad2deg(pitch), np.rad2deg(roll)


def turning_shift(rotation: np.ndarray) -> np.ndarray:
    """How far the model's origin moves in the image when a head [N, 3, 3] turns about PIVOT: [N, 2], model units."""
    return PIVOT[:2] * [1, -1] - (FRONTAL @ rotation @ PIVOT)[:, :2]


def head_rotation(cameras: Cameras) -> np.ndarray:
    """Head rotations [N, 3, 3] that cameras show."""
    return FRONTAL @ cameras.rotation


# ---- names of expression shapes ----


def shapes_called(name: str, names: Sequence[str]) -> list[int]:
    """Which of a model's expression shapes `name` means: usually one, both sides for a name without a side (`eyeBlink`).

    Case does not count, and a side may be written _L, _R, Left or Right. [] when there is none.
    """

    def plain(text: str) -> str:
        text = text.replace("_", "").replace(" ", "").lower()
        return re.sub(r"(?<!mouth)(?<!jaw)(left|right)$", lambda m: m[0][0], text)

    wanted = plain(name)
    own = [plain(n) for n in names]
    if wanted in own:
        return [own.index(wanted)]
    return [i for i, n in enumerate(own) if n in (f"{wanted}l", f"{wanted}r") and names[i].endswith(("_L", "_R"))]
