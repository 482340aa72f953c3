"""Changes of a motion that are said outright: head angles and expression weights that add to what is there, or replace it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from preprocessing.driving.motion import ANGLES, from_angles, head_rotation, shapes_called, to_angles, turning_shift
from util.cli import UserError
from util.geometry import FRONTAL, Cameras

MOST = 1e3  # of an edit: beyond whole turns, and any weight


@dataclass(frozen=True)
class Edit:
    """One change of a motion: `name` is yaw, pitch, roll or an expression shape; `relative` adds, otherwise it sets."""

    name: str
    value: float  # degrees, or an expression weight
    relative: bool


def parse_edits(text: str) -> list[Edit]:
    """Parse "jawOpen=+0.2,mouthSmile_L=0.3,yaw=10": a sign adds, a bare number sets; angles in degrees.

    Raises: UserError.
    """
    edits = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, _, value = (p.strip() for p in part.partition("="))
        try:
            edits.append(Edit(name, float(value), value[:1] in "+-"))
            if not abs(edits[-1].value) <= MOST:
                raise ValueError
        except ValueError:
            raise UserError(f"--edit '{part}' is not name=number; for instance jawOpen=+0.2,mouthSmile_L=0.3,yaw=10") from None
    return edits


def check_edits(edits: Sequence[Edit], names: Sequence[str]) -> None:
    """Raises: UserError when an edit names neither an angle nor an expression shape of the model."""
    for edit in edits:
        if edit.name.lower() not in ANGLES and not shapes_called(edit.name, names):
            named = [n for n in names if not n.startswith("smooth_")]
            raise UserError(f"--edit: there is no expression '{edit.name}'; there are yaw, pitch, roll, {', '.join(named)}")


def edit_expression(edits: Sequence[Edit], expression: np.ndarray, names: Sequence[str], bounds: np.ndarray) -> np.ndarray:
    """Expressions [N, K] after the edits that name shapes, within the model's bounds [K, 2]."""
    out = expression.copy()
    for edit in edits:
        for k in shapes_called(edit.name, names) if edit.name.lower() not in ANGLES else ():
            out[:, k] = np.clip(out[:, k] * edit.relative + edit.value, *bounds[k])
    return out


def edit_cameras(edits: Sequence[Edit], cameras: Cameras) -> Cameras:
    """Cameras after the edits that name angles."""
    turns = [edit for edit in edits if edit.name.lower() in ANGLES]
    if not turns:
        return cameras
    before = head_rotation(cameras)
    angles = dict(zip(ANGLES, to_angles(before)))
    for edit in turns:
        name = edit.name.lower()
        angles[name] = angles[name] * edit.relative + edit.value
    after = from_angles(*angles.values())
    moved = (turning_shift(after) - turning_shift(before)) * cameras.scale[:, None]
    return Cameras(cameras.scale, FRONTAL @ after, cameras.translation + np.pad(moved, ((0, 0), (0, 1))))
