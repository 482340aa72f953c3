"""Motion that drives a head, without anyone's likeness: from a fitted identity, a CSV of ARKit blendshapes, or a template file.

**Head rotation** is a rotation matrix in the models' own axes (x to the subject's left, y up, z towards the camera), so the identity
looks straight into the camera. Angles are yaw (to the subject's left +), pitch (up +) and roll (counter-clockwise in the picture +),
applied as Ry(yaw) Rx(-pitch) Rz(roll). These are the signs of the apps that export ARKit's angles as HeadYaw, HeadPitch, HeadRoll.

**Template** (JSON, docs/formats.md): what `save_template` writes and `read_template` reads.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from util.cli import UserError
from util.geometry import FRONTAL, Cameras, rotation_matrix, rotation_vector
from util.image_io import write_bytes

TEMPLATE_FORMAT = "head2head motion"
TEMPLATE_VERSION = 1
# Model units (cm): where a head turns about, if nothing else is known. Fitted to the cameras of six videos it came out at
# (-0.8, -4.5, 3.5), of which left and right is chance, and depth as well (it has no effect on small nods).
PIVOT = np.array([0.0, -4.0, 0.0])
_ANGLES = ("yaw", "pitch", "roll")
_COMMON_RATES = (24, 25, 30, 48, 50, 60, 120)
_TIME_COLUMNS = ("timecode", "seconds", "time", "timestamp", "times", "timeseconds")


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
    # What is open in the source, as seen; None: as the expressions say.
    lids: np.ndarray | None = None  # float64 [N, 2], right and left eye; 1 is usual for the source, 0 shut
    lips: np.ndarray | None = None  # float64 [N], gap between the inner lips, model units, 0 shut
    placement: Placement | None = None

    def __len__(self) -> int:
        return len(self.rotation)


# ---- rotations ----


def from_angles(yaw_deg: np.ndarray, pitch_deg: np.ndarray, roll_deg: np.ndarray) -> np.ndarray:
    """Head rotations [..., 3, 3] from angles [...] in degrees; signs and order stand in the module's text."""
    axes = np.eye(3)
    yaw, pitch, roll = (np.deg2rad(np.asarray(a, np.float64))[..., None] for a in (yaw_deg, pitch_deg, roll_deg))
    return rotation_matrix(yaw * axes[1]) @ rotation_matrix(-pitch * axes[0]) @ rotation_matrix(roll * axes[2])


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


# ---- ARKit ----


def read_arkit(path: Path, names: Sequence[str], fps: Fraction) -> Motion:
    """Read a CSV of ARKit blendshape weights as phone apps (Live Link Face and others) export them.

    A column per shape (0..1); HeadYaw, HeadPitch, HeadRoll in radians, or in degrees when one goes beyond pi (without them the head
    stays straight); and a column Timecode (HH:MM:SS:FF.fff, FF frames) or `seconds`. Columns of other names are left out.

    names: expression shapes of the face model. fps: frame rate of the result, to which the file is resampled linearly.
    Raises: UserError when the file is missing or holds something else.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            head, *rows = [row for row in csv.reader(file) if any(cell.strip() for cell in row)]
    except FileNotFoundError:
        raise UserError(f"there is no file {path}; check --drive") from None
    except (ValueError, csv.Error) as e:  # no line, no text
        raise UserError(f"{path} is not a CSV file with a line of names ({e}); export it again from the capture app") from None
    column = {name.strip().replace("_", "").lower(): i for i, name in enumerate(head)}
    # an app writes a line without weights for a frame in which it saw no face
    rows = [row for row in rows if len(row) == len(head) and all(cell.strip() for cell in row)]
    shapes = {i: shapes_called(name.strip(), names) for i, name in enumerate(head)}
    shapes = {i: called for i, called in shapes.items() if called}
    if len(shapes) < 10:
        raise UserError(f"{path} names only {len(shapes)} ARKit blendshapes in its first line; a CSV of a face capture app is expected")
    if len(rows) < 2:
        raise UserError(f"{path} holds {len(rows)} frames in which a face was seen; at least 2 are needed")
    timed = next((column[name] for name in _TIME_COLUMNS if name in column), None)
    if timed is None:
        raise UserError(f"{path} has no column Timecode or seconds, so its speed is unknown; add a column 'seconds'")
    try:
        times = _seconds([row[timed] for row in rows])
        weights = np.array([[row[i] for i in shapes] for row in rows], np.float64)
        turns = [column.get(f"head{angle}") for angle in _ANGLES]
        angles = np.array([[row[i] if i is not None else 0 for i in turns] for row in rows], np.float64)
    except ValueError as e:
        raise UserError(f"{path} holds something other than numbers ({e}); export it again from the capture app") from None
    if not (np.isfinite(weights).all() and np.isfinite(angles).all() and np.isfinite(times).all()):
        raise UserError(f"{path} holds values that are no numbers; export it again from the capture app")
    keep = np.r_[True, np.diff(np.maximum.accumulate(times)) > 0]  # two frames of one moment, or one that goes back
    times, weights, angles = times[keep] - times[0], weights[keep], angles[keep]
    if len(times) < 2:
        raise UserError(f"the time does not go on in {path}; export it again from the capture app")
    if np.abs(angles).max() <= np.pi:
        angles = np.rad2deg(np.unwrap(angles, axis=0))

    at = np.arange(int(times[-1] * fps) + 1) / float(fps)
    expression = np.zeros((len(at), len(names)))
    for values, called in zip(weights.T, shapes.values()):
        expression[:, called] = np.interp(at, times, values)[:, None]
    rotation = from_angles(*(np.interp(at, times, values) for values in angles.T))
    shift = turning_shift(rotation)
    return Motion(fps, rotation, np.ones(len(at)), shift - shift.mean(0), expression, np.zeros((len(at), 2, 3)))


def _seconds(stamps: Sequence[str]) -> np.ndarray:
    """Times in seconds of Timecodes (HH:MM:SS:FF.fff) or of plain numbers."""
    if ":" not in stamps[0]:
        return np.array(stamps, np.float64)
    parts = np.array([stamp.split(":") for stamp in stamps], np.float64)
    if parts.shape[1] != 4:
        raise ValueError(f"'{stamps[0]}' is no timecode HH:MM:SS:FF")
    # The rate is not written; frames are counted from 0 within a second.
    rate = next((r for r in _COMMON_RATES if r > parts[:, 3].max()), parts[:, 3].max() + 1)
    if np.ptp(parts[:, :3] @ [3600, 60, 1]) < 1:  # not a whole second seen: the apps' own rate
        rate = max(rate, 60)
    times = parts @ [3600, 60, 1, 1 / rate]
    return times + 86400 * np.cumsum(np.r_[0, np.diff(times) < -43200])  # midnight


# ---- templates ----


def save_template(path: Path, motion: Motion, names: Sequence[str], version: str) -> None:
    """Write motion as a template: no picture, no identity, no place in a frame (docs/formats.md).

    names: expression shapes, in the order of motion.expression; version: the face model's, as "name version".
    """
    fields = {
        "format": TEMPLATE_FORMAT,
        "version": TEMPLATE_VERSION,
        "face_model": version,
        "fps": str(motion.fps),
        "expression_names": list(names),
        "rotation": rotation_vector(motion.rotation).round(5).tolist(),
        "zoom": motion.zoom.round(5).tolist(),
        "shift": motion.shift.round(4).tolist(),
        "expression": motion.expression.round(4).tolist(),
        "pupils": motion.pupils.reshape(len(motion), 6).round(4).tolist(),
    }
    for key in ("lids", "lips"):
        if getattr(motion, key) is not None:
            fields[key] = getattr(motion, key).round(4).tolist()
    write_bytes(path, json.dumps(fields, separators=(",", ":")).encode())


def read_template(path: Path, names: Sequence[str]) -> Motion:
    """Read a template for a model with the expression shapes `names`; shapes that the model does not have are left out.

    Raises: UserError when the file is missing, damaged or something else.
    """
    try:
        fields = json.loads(path.read_text())
        if fields["format"] != TEMPLATE_FORMAT or fields["version"] != TEMPLATE_VERSION:
            raise ValueError(f"format {fields['format']}, version {fields['version']}")
        own, fps = [str(n) for n in fields["expression_names"]], Fraction(fields["fps"])
        rotation = rotation_matrix(np.array(fields["rotation"], np.float64).reshape(-1, 3))
        count = len(rotation)
        shapes = {"zoom": (), "shift": (2,), "expression": (len(own),), "pupils": (2, 3), "lids": (2,), "lips": ()}
        optional = {"lids", "lips"} - set(fields)
        values = {k: np.array(fields[k], np.float64).reshape(count, *shape) for k, shape in shapes.items() if k not in optional}
        if count == 0 or fps <= 0 or not all(np.isfinite(v).all() for v in (rotation, *values.values())):
            raise ValueError("no frames, or values that are no numbers")
    except FileNotFoundError:
        raise UserError(f"there is no file {path}; check --drive") from None
    except (ValueError, KeyError, TypeError, ZeroDivisionError) as e:
        raise UserError(f"{path} is not a motion template ({e}); make it with preprocessing/reenact.py --save_template") from None
    expression = np.zeros((count, len(names)))
    for i, name in enumerate(own):
        if name in names:
            expression[:, list(names).index(name)] = values["expression"][:, i]
    return Motion(fps, rotation, **{**values, "expression": expression})


# ---- edits ----


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
        except ValueError:
            raise UserError(f"--edit '{part}' is not name=number; for instance jawOpen=+0.2,mouthSmile_L=0.3,yaw=10") from None
    return edits


def check_edits(edits: Sequence[Edit], names: Sequence[str]) -> None:
    """Raises: UserError when an edit names neither an angle nor an expression shape of the model."""
    for edit in edits:
        if edit.name.lower() not in _ANGLES and not shapes_called(edit.name, names):
            named = [n for n in names if not n.startswith("smooth_")]
            raise UserError(f"--edit: there is no expression '{edit.name}'; there are yaw, pitch, roll, {', '.join(named)}")


def edit_expression(edits: Sequence[Edit], expression: np.ndarray, names: Sequence[str], bounds: np.ndarray) -> np.ndarray:
    """Expressions [N, K] after the edits that name shapes, within the model's bounds [K, 2]."""
    out = expression.copy()
    for edit in edits:
        for k in shapes_called(edit.name, names) if edit.name.lower() not in _ANGLES else ():
            out[:, k] = np.clip(out[:, k] * edit.relative + edit.value, *bounds[k])
    return out


def edit_cameras(edits: Sequence[Edit], cameras: Cameras) -> Cameras:
    """Cameras after the edits that name angles."""
    turns = [edit for edit in edits if edit.name.lower() in _ANGLES]
    if not turns:
        return cameras
    before = head_rotation(cameras)
    angles = dict(zip(_ANGLES, to_angles(before)))
    for edit in turns:
        name = edit.name.lower()
        angles[name] = angles[name] * edit.relative + edit.value
    after = from_angles(*angles.values())
    moved = (turning_shift(after) - turning_shift(before)) * cameras.scale[:, None]
    return Cameras(cameras.scale, FRONTAL @ after, cameras.translation + np.pad(moved, ((0, 0), (0, 1))))
