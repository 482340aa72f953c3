"""Files of motion: CSV of ARKit blendshapes, and templates (JSON). docs/formats.md describes both."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from preprocessing.driving.motion import ANGLES, Motion, from_angles, shapes_called, turning_shift
from util.cli import UserError
from util.geometry import rotation_matrix, rotation_vector
from util.image_io import write_bytes

TEMPLATE_FORMAT = "head2head motion"
TEMPLATE_VERSION = 1
COMMON_RATES = (24, 25, 30, 48, 50, 60, 120)  # frames/s that cameras record at
TIME_COLUMNS = ("timecode", "seconds", "time", "timestamp", "times", "timeseconds")  # names of a CSV's time, without case and '_'
LEAST_SHAPES = 10  # blendshapes in the first line of a CSV; fewer are another kind of table


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
    if len(shapes) < LEAST_SHAPES:
        raise UserError(f"{path} names only {len(shapes)} ARKit blendshapes in its first line; a CSV of a face capture app is expected")
    if len(rows) < 2:
        raise UserError(f"{path} holds {len(rows)} frames in which a face was seen; at least 2 are needed")
    timed = next((column[name] for name in TIME_COLUMNS if name in column), None)
    if timed is None:
        raise UserError(f"{path} has no column Timecode or seconds, so its speed is unknown; add a column 'seconds'")
    try:
        times = _seconds([row[timed] for row in rows])
        weights = np.array([[row[i] for i in shapes] for row in rows], np.float64)
        turns = [column.get(f"head{angle}") for angle in ANGLES]
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
    rate = next((r for r in COMMON_RATES if r > parts[:, 3].max()), parts[:, 3].max() + 1)
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
